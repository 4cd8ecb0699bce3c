"""Distilled surrogates of an 8-bit classifier, held against maps from forward passes alone.

    python benchmarks/distillation.py fit ASSETS WORK --which own
    python benchmarks/distillation.py fit ASSETS WORK --which own-fitted
    python benchmarks/distillation.py fit ASSETS WORK --which small-even
    python benchmarks/distillation.py fit ASSETS WORK --which small
    python benchmarks/distillation.py measure ASSETS WORK
    python benchmarks/distillation.py report ASSETS WORK
    python benchmarks/distillation.py scenes --count 300

`fit` distils WORK/WHICH.onnx from all photographs, or ("-even") from every second one; none is held
out but by "small", which has `distill`'s defaults: `measure` scores the maps by each surrogate
there is, by the exact gradient and by forward passes alone, on all photographs; `report` prints the
table. What is measured is appended to a file in WORK, so that an interrupted run goes on. `scenes`
is the case of an opaque model of a narrow world: the demo's classifier as a function, and as many
drawn scenes as one likes; it prints the agreement on other scenes, and the maps' scores there.

A map is scored by RISE's protocol: insertion minus deletion, of the deployed model.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from ibisa_exporters.distillation import Settings, distil
from photographs import Photograph, explainer_of_crops, measure, photographs, score_of

from ibisa_onnx import Explainer
from ibisa_onnx.demo import model_path
from ibisa_onnx.demo.scenes import draw_scene
from ibisa_onnx.metrics import INSERTION_MINUS_DELETION, Scores
from ibisa_onnx.models.function import InputSpec
from ibisa_onnx.preprocessing.spec import prepare

MODEL = "mobilenetv2_int8"
BUDGET = 100  # forward passes of what all are held against
RIVAL = f"forward-only {BUDGET}"
FITS = {
    "own": Settings(student="own", held_out=0),
    "own-fitted": Settings(student="own", held_out=0, masks=16, epochs=2),
    "small-even": Settings(student="small", held_out=0, masks=64, epochs=8),
    "small": Settings(student="small"),
}
SCENES = Settings(student="small", masks=8, epochs=8)
SIDE = 128

Key = tuple[str, str]
"""Photograph and method."""


def fit(args: argparse.Namespace) -> None:
    """Distil one surrogate, and say what it took."""
    seen = photographs(args.assets, *explainer_of_crops(args.assets, MODEL, 1))
    seen = seen[::2] if args.which.endswith("-even") else seen
    begin = time.perf_counter()
    found = distil(seen[0].fitted, [each.crop for each in seen], FITS[args.which], progress=say)
    seconds = time.perf_counter() - begin
    args.work.mkdir(parents=True, exist_ok=True)
    found.save(args.work / f"{args.which}.onnx")
    facts = {**found.facts, "seconds": seconds}
    (args.work / f"{args.which}.json").write_text(json.dumps(facts, indent=1))
    print(f"{args.which}: {found.figures}; {found.queries} queries, {seconds / 60:.1f} minutes")


def say(what: str, done: int, total: int) -> None:
    """Say now and then how far it is."""
    if what.startswith("fitting") and done % max(1, total // 20) == 0:
        print(f"{what} {done}/{total}", flush=True)


def explainers(photo: Photograph, work: Path) -> Iterator[tuple[str, Explainer]]:
    """Yield all that are compared, by name."""
    model, spec = photo.fitted.model, photo.fitted.preprocessing.spec
    yield RIVAL, Explainer(model, preprocessing=spec, gradient="forward-only", budget=BUDGET)
    yield "exact", Explainer(model, preprocessing=spec, gradient="exact")
    for which in FITS:
        file = work / f"{which}.onnx"
        if file.exists():
            yield which, Explainer(model, preprocessing=spec, gradient="surrogate", surrogate=file)


def read(file: Path) -> dict[Key, float]:
    """Return insertion minus deletion of all that was measured."""
    if not file.exists():
        return {}
    with file.open(newline="") as lines:
        return {(row[0], row[1]): float(row[2]) - float(row[3]) for row in csv.reader(lines)}


def measure_all(args: argparse.Namespace) -> None:
    """Measure what is missing."""
    file = args.work / "distillation.csv"
    seen = photographs(args.assets, *explainer_of_crops(args.assets, MODEL, 1))
    for name, explainer in explainers(seen[0], args.work):
        for photo in seen:
            if (photo.path.stem, name) in read(file):
                continue
            scores = measure(photo.score, photo.image, explainer.explain(photo.crop).map)
            with file.open("a", newline="") as lines:
                csv.writer(lines).writerow([photo.path.stem, name, *scores])
        print(name, flush=True)


def gap(values: dict[Key, float], name: str, stems: Sequence[str]) -> str:
    """Return the paired difference to the rival, with its 95% interval."""
    found = [values[stem, name] - values[stem, RIVAL] for stem in stems if (stem, name) in values]
    if len(found) < 2:
        return "-"
    return str(Scores(INSERTION_MINUS_DELETION, np.array(found)).interval())


def report(args: argparse.Namespace) -> None:
    """Print the table: costs, means, and paired leads over the rival."""
    values = read(args.work / "distillation.csv")
    stems = sorted({stem for stem, _ in values})
    parts = {"all": stems, "even": stems[::2], "odd": stems[1::2]}
    heads = ("maps by", "queries", "minutes", "Pearson", "Spearman", "score")
    heads += tuple(f"lead, {name} {len(part)}" for name, part in parts.items())
    print(f"| {' | '.join(heads)} |\n{'|---' * len(heads)}|")
    for name in dict.fromkeys(name for _, name in values):
        mean = np.mean([values[stem, name] for stem in stems if (stem, name) in values])
        leads = [gap(values, name, part) for part in parts.values()]
        print(f"| {' | '.join([name, *cost(args.work / f'{name}.json'), f'{mean:.3f}', *leads])} |")


def cost(file: Path) -> list[str]:
    """Return queries, minutes and agreement of a surrogate; nothing of what is none."""
    if not file.exists():
        return [""] * 4
    facts = json.loads(file.read_text())
    agreement = (f"{facts['seen'][name]:.2f}" for name in ("pearson", "spearman"))
    return [str(facts["queries"]), f"{facts['seconds'] / 60:.1f}", *agreement]


def scenes(args: argparse.Namespace) -> None:
    """Distil the demo's classifier as a function from drawn scenes, and score maps of others."""
    whole = Explainer(model_path(), threads=1)
    name = whole.model.signature.outputs[0].name
    opaque = Explainer(
        lambda images: whole.model.run(images, [name])[name],
        InputSpec((None, 3, SIDE, SIDE)),
        preprocessing=whole.preprocessing.spec,
    )
    rng = np.random.default_rng(11)
    drawn = [draw_scene(rng, size=(SIDE, SIDE)).image for _ in range(args.count + args.others)]
    begin = time.perf_counter()
    found = distil(opaque, drawn[: args.count], SCENES, progress=say)
    minutes = (time.perf_counter() - begin) / 60
    print(f"{found.figures}; {found.queries} queries, {minutes:.1f} minutes")
    spec = whole.preprocessing.spec
    rivals = {
        "surrogate": Explainer(
            whole.model, preprocessing=spec, gradient="surrogate", surrogate=found.student
        ),
        RIVAL: Explainer(whole.model, preprocessing=spec, gradient="forward-only", budget=BUDGET),
        "exact": Explainer(whole.model, preprocessing=spec, gradient="exact"),
    }
    values: dict[Key, float] = {}
    for number, scene in enumerate(drawn[args.count :]):
        image = prepare(scene, spec).tensor[0]
        for rival, explainer in rivals.items():
            found_map = explainer.explain(scene).map
            one, other = measure(score_of(whole, image), image, found_map)
            values[str(number), rival] = one - other
    for rival in rivals:
        mean = np.mean([value for (_, each), value in values.items() if each == rival])
        print(f"{rival}: {mean:.3f}, {gap(values, rival, [str(i) for i in range(args.others)])}")


def main() -> None:
    """Fit, measure, or report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    for name, function in (("fit", fit), ("measure", measure_all), ("report", report)):
        command = commands.add_parser(name)
        command.add_argument("assets", type=Path)
        command.add_argument("work", type=Path)
        command.set_defaults(function=function)
        if name == "fit":
            command.add_argument("--which", choices=FITS, required=True)
    command = commands.add_parser("scenes")
    command.add_argument("--count", type=int, default=300, help="scenes to fit to")
    command.add_argument("--others", type=int, default=25, help="scenes to explain")
    command.set_defaults(function=scenes)
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.function(args)


if __name__ == "__main__":
    main()

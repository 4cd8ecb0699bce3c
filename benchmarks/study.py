"""IBISA's defaults: what was chosen on half of the photographs, and what holds on the other half.

    python benchmarks/study.py report ASSETS WORK --model squeezenet
    python benchmarks/study.py report ASSETS WORK --model efficientnet_lite2.onnx --every 3
    python benchmarks/study.py tune ASSETS WORK --model squeezenet
    python benchmarks/study.py places ASSETS WORK
    python benchmarks/study.py show ASSETS WORK

`report` scores the presets, RISE, Grad-CAM, IBA and SmoothGrad on the photographs of odd number;
`tune` scores single changes of `paper` on those of even number; `places` asks where maps of planted
scenes and of two dogs fall. What is measured is kept in WORK, so that an interrupted run goes on
where it stopped; `show` prints the tables and draws the figures of docs/explanation/benchmarks.md.
`all` does everything, one after the other. A model is one of ASSETS, or a file that says how its
pictures are prepared.

A map is scored as by `ibisa-onnx bench`, at what the model sees of the photograph, for the class
that it predicts: insertion and deletion as RISE has them; LeRF - MoRF with hidden pixels blurred,
of the mean colour, or noise; and how far it stays the same where the picture hardly changes.
RISE's stability is not measured, which would take four times its 4000 passes.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
from photographs import PRESETS, rise_map
from planted import hull

from ibisa_onnx import Explainer, Options, Overrides
from ibisa_onnx.benchmark.evaluation import evaluate, subject_of
from ibisa_onnx.demo import model_path
from ibisa_onnx.demo.scenes import draw_scene
from ibisa_onnx.methods.grad_cam import GradCam
from ibisa_onnx.methods.iba import Iba
from ibisa_onnx.methods.ibisa.options import PRESETS as IBISA
from ibisa_onnx.methods.problem import Problem
from ibisa_onnx.metrics import DELETION, INSERTION, LERF_MORF, STABILITIES, Interval, Metric, Scores
from ibisa_onnx.metrics.stability import stability

MODELS = ("squeezenet", "mobilenetv2")
FIGURES = Path(__file__).parents[1] / "docs" / "figures"
STANDARD = IBISA["standard"]
VARIANTS: dict[str, Options] = {
    "standard": STANDARD,
    "first smoothing 4": replace(STANDARD, first_smoothing=4.0),
    "first smoothing 6": replace(STANDARD, first_smoothing=6.0),
    "grid 80": replace(STANDARD, grid=80, smoothing=1.4, first_smoothing=5.7, pooling=8.0),
    "start 1.5": replace(STANDARD, start=1.5),
    "learning rate 1.2": replace(STANDARD, learning_rate=1.2),
    "the same learning rate throughout": replace(STANDARD, first_learning_rate=1.0),
    "learning rate 1 throughout, beta 40": replace(
        STANDARD, first_learning_rate=1.0, learning_rate=1.0, beta=40.0
    ),
    "pooling 4": replace(STANDARD, pooling=4.0),
    "beta 45": replace(STANDARD, beta=45.0),
    "waves 1.5": replace(STANDARD, wave_amplitude=1.5),
    "blur for baseline": replace(STANDARD, baseline="blur"),
    "mean for baseline": replace(STANDARD, baseline="mean"),
    "no evidence": replace(STANDARD, evidence=0.0),
    "evidence smoothed by 1": replace(STANDARD, evidence_smoothing=1.0),
    "evidence cut off below zero": replace(STANDARD, softness=0.0),
    "softness 0.3": replace(STANDARD, softness=0.3),
    "no class activation": replace(STANDARD, activation=0.0),
    "class activation 1.5": replace(STANDARD, activation=1.5),
}
RIVALS = ("rise-4000", "gradcam", "iba", "smoothgrad")
OURS = (*IBISA, "forward-only")
SCORES: tuple[Metric, ...] = (
    INSERTION,
    DELETION,
    *(LERF_MORF[k] for k in ("blur", "mean", "noise")),
)
STABLE = STABILITIES[1:]
DIFFERENCE = Metric("insertion - deletion", True, (-1.0, 1.0), "insertion less deletion")
LEADS = (DIFFERENCE, *SCORES[2:])
SHOWN = 20  # maps side by side
SCENES, FIRST_SCENE = 100, 200_000

Key = tuple[str, str]
"""Photograph and method."""

Explain = Callable[[np.ndarray], np.ndarray]
"""An image [C, h, w] in model space to its map [h, w]."""


class Bench:
    """One model with the photographs, and where its maps and scores are kept."""

    def __init__(self, args: argparse.Namespace, model: str) -> None:
        self.assets, self.work, self.every = args.assets, args.work, args.every
        file = Path(model)
        self.path = file if file.suffix else args.assets / "models" / f"{model}.onnx"
        self.model = file.stem
        self.photos = sorted((args.assets / "images").glob("*.JPEG"))
        self.file = args.work / f"study-{self.model}.csv"

    @cached_property
    def plain(self) -> Explainer:
        """One for all variants, whose options are set: each of its own would open the gradient."""
        return Explainer(self.path, preprocessing=PRESETS.get(self.model), threads=1)

    @cached_property
    def without_gradient(self) -> Explainer:
        return Explainer(
            self.plain.model, preprocessing=self.plain.preprocessing.spec, gradient="forward-only"
        )

    @cached_property
    def methods(self) -> dict[str, GradCam | Iba]:
        """Opened once: IBA's estimate takes a pass for each photograph."""
        return {"gradcam": GradCam(), "iba": Iba(tuple(map(str, self.photos)))}

    @cached_property
    def smoothgrad(self) -> Callable[[np.ndarray, int], np.ndarray]:
        return smoothgrad(self.path)

    def half(self, half: int) -> list[tuple[int, Path]]:
        """Return the photographs of even or odd number, with their numbers."""
        return list(enumerate(self.photos))[half::2][:: self.every]

    def rows(self) -> dict[Key, dict[str, float]]:
        """Return all that was measured, by name."""
        if not self.file.exists():
            return {}
        with self.file.open(newline="") as lines:
            found = {}
            for row in csv.DictReader(lines):
                key = row.pop("photograph"), row.pop("method")
                found[key] = {name: float(value) for name, value in row.items()}
            return found

    def fill(self, names: Sequence[str], half: int) -> None:
        """Measure what is missing of the methods, on the photographs of even or odd number."""
        known = self.rows()
        for number, photo in self.half(half):
            missing = [name for name in names if (photo.stem, name) not in known]
            if not missing:
                continue
            problem = self.plain.problem(photo)
            subject = subject_of(problem)
            for name in missing:
                map, passes, explain = self.explained(name, number, photo, problem)
                row = evaluate(subject, problem, map, SCORES) | {
                    each.name: float("nan") for each in STABLE
                }
                if explain is not None:
                    spec = self.plain.preprocessing.spec
                    row |= stability(explain, problem.image[0], spec, STABLE)
                self.keep(photo.stem, name, passes, row)
            print(self.model, photo.stem, flush=True)

    def keep(self, photo: str, name: str, passes: tuple[int, int], row: dict[str, float]) -> None:
        whole = {"photograph": photo, "method": name, "forward": passes[0], "backward": passes[1]}
        whole |= row
        new = not self.file.exists()
        with self.file.open("a", newline="") as lines:
            writer = csv.DictWriter(lines, list(whole))
            if new:
                writer.writeheader()
            writer.writerow(whole)

    def explained(
        self, name: str, number: int, photo: Path, problem: Problem
    ) -> tuple[np.ndarray, tuple[int, int], Explain | None]:
        """Return a map, kept in WORK, its passes, and what explains other images alike."""
        if name == "rise-4000":
            return self.rise(number, problem, photo), (4000, 0), None
        index = problem.row.objective.describe()["index"]
        if name == "smoothgrad":
            map = self.smoothgrad(problem.image[0], index)
            self.store(name, photo, problem.row.geometry.restore(map))
            return map, (SAMPLES, SAMPLES), lambda image: self.smoothgrad(image, index)
        explainer = self.without_gradient if name == "forward-only" else self.plain
        explainer.options = {**VARIANTS, **IBISA}.get(name, STANDARD)
        method = self.methods.get(name)
        found = explainer.explain(photo, index, method=method)
        self.store(name, photo, found.map)
        passes = found.passes.forward, found.passes.backward
        return found.map, passes, lambda image: explainer.map_of(problem, image, method=method)

    def rise(self, number: int, problem: Problem, photo: Path) -> np.ndarray:
        """Return RISE's map of what the model sees, [h, w]."""
        file = self.work / f"rise-4000-{self.model}" / f"{photo.stem}.npy"
        return rise_map(file, problem.score, problem.image[0], 4000, number)

    def store(self, name: str, photo: Path, map: np.ndarray) -> None:
        file = self._map_file(name, photo)
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, map)

    def stored(self, name: str, photo: Path) -> np.ndarray:
        return np.load(self._map_file(name, photo))

    def _map_file(self, name: str, photo: Path) -> Path:
        return self.work / "study-maps" / self.model / name / f"{photo.stem}.npy"


SAMPLES, SHARE, SIGMA = 50, 0.15, 3.0


def smoothgrad(path: Path) -> Callable[[np.ndarray, int], np.ndarray]:
    """Return SmoothGrad (Smilkov et al., arXiv 1706.03825) of a file's logits.

    50 samples, noise of 15% of the image's range; the mean gradient's size summed over the
    channels, smoothed by 3 pixels.
    """
    import torch

    from ibisa_onnx.gradients.onnx_module import OnnxModule

    module = OnnxModule(path, logits=True, threads=1)

    def explain(image: np.ndarray, index: int) -> np.ndarray:
        rng, total = np.random.default_rng(0), np.zeros_like(image)
        spread = np.float32(SHARE * (image.max() - image.min()))
        for _ in range(SAMPLES):
            noise = spread * rng.standard_normal(image.shape, np.float32)
            leaf = torch.from_numpy((image + noise)[None]).requires_grad_()
            (slope,) = torch.autograd.grad(module(leaf).reshape(-1)[index], leaf)
            total += slope[0].numpy()
        return cv2.GaussianBlur(np.abs(total).sum(0), (0, 0), SIGMA)

    return explain


def tune(bench: Bench) -> None:
    bench.fill(list(VARIANTS), 0)


def report(bench: Bench) -> None:
    bench.fill([*OURS, *RIVALS], 1)


def places(args: argparse.Namespace) -> None:
    """Ask where maps fall."""
    file = args.work / "study-places.csv"
    done = {row[0] for row in csv.reader(file.open(newline=""))} if file.exists() else set()
    methods: dict[str, tuple[Options, Callable[[], object] | None]] = {
        **{name: (options, None) for name, options in IBISA.items()},
        "gradcam": (STANDARD, GradCam),
        **{name: (options, None) for name, options in VARIANTS.items()},
    }
    for name, (options, method) in methods.items():
        if name in done:
            continue
        row = [*planted(options, method), *two_dogs(args.assets, options, method)]
        with file.open("a", newline="") as lines:
            csv.writer(lines).writerow([name, *row])
        print(name, *(f"{each:.3f}" for each in row), flush=True)


def planted(options: Options, method: Callable[[], object] | None) -> tuple[float, float, float]:
    """Return the shares of peaks on the object and in its hull, and the mean mass in the hull."""
    explainer = Explainer(model_path(), providers=["cpu"], threads=1, options=options)
    on_it, inside, masses = [], [], []
    for number in range(SCENES):
        scene = draw_scene(np.random.default_rng(FIRST_SCENE + number), count=1 + number % 3)
        targets = [item.index for item in scene.objects]
        found = explainer.explain_all(scene.image, targets, method=method and method())
        for item, explanation in zip(scene.objects, found, strict=True):
            map, around = explanation.map, hull(item.mask)
            peak = np.unravel_index(map.argmax(), map.shape)
            on_it.append(bool(item.mask[peak]))
            inside.append(bool(around[peak]))
            masses.append(map[around].sum() / max(map.sum(), 1e-9))
    return float(np.mean(on_it)), float(np.mean(inside)), float(np.mean(masses))


def two_dogs(
    assets: Path, options: Options, method: Callable[[], object] | None
) -> tuple[float, float]:
    """Return what share of each dog's map is on its own half of the picture."""
    explainer = Explainer(
        assets / "models" / "mobilenetv2.onnx",
        overrides=Overrides(preset="tf", resize="stretch"),
        labels=assets / "imagenet_classes_1001.txt",
        threads=1,
        options=options,
    )
    picture = assets / "detection" / "pets.jpg"
    targets = ["Italian greyhound", "Boston bull"]
    maps = [e.map for e in explainer.explain_all(picture, targets, method=method and method())]
    middle = maps[0].shape[1] // 2
    left, right = (float(each[:, :middle].sum() / each.sum()) for each in maps)
    return left, 1 - right


# -- what is shown


def scores(bench: Bench, half: int, name: str, metric: Metric) -> Scores:
    """Return a metric of a method on one half of the photographs."""
    rows = bench.rows()
    found = [rows[photo.stem, name] for _, photo in bench.half(half)]
    return Scores(metric, np.array([value_of(row, metric) for row in found]))


def value_of(row: dict[str, float], metric: Metric) -> float:
    if metric is DIFFERENCE:
        return row[INSERTION.name] - row[DELETION.name]
    return row[metric.name]


def lead(bench: Bench, half: int, name: str, other: str, metric: Metric) -> Interval:
    """Return the mean paired difference between a method and another."""
    return scores(bench, half, name, metric).minus(scores(bench, half, other, metric))


def measured(bench: Bench, half: int, names: Iterable[str]) -> list[str]:
    """Return the methods that were measured on all photographs of one half."""
    rows, photos = bench.rows(), bench.half(half)
    return [name for name in names if all((photo.stem, name) in rows for _, photo in photos)]


def report_lines(bench: Bench) -> Iterator[str]:
    """Yield what each method scores on the held-back half."""
    shown = (DIFFERENCE, *SCORES, *STABLE)
    yield f"| method | {' | '.join(each.name for each in shown)} | passes |"
    yield "|---" * (len(shown) + 2) + "|"
    rows = bench.rows()
    for name in measured(bench, 1, (*OURS, *RIVALS)):
        own = [rows[photo.stem, name] for _, photo in bench.half(1)]
        means = [np.mean([value_of(row, each) for row in own]) for each in shown]
        cells = ["" if np.isnan(each) else f"{each:.3f}" for each in means]
        passes = " + ".join(f"{np.mean([r[k] for r in own]):.0f}" for k in ("forward", "backward"))
        yield f"| {name} | {' | '.join(cells)} | {passes} |"


def lead_lines(bench: Bench) -> Iterator[str]:
    """Yield the paired differences to others on the held-back half, with 95% intervals."""
    yield f"| | over | {' | '.join(each.name for each in LEADS)} |"
    yield "|---" * (len(LEADS) + 2) + "|"
    for name in measured(bench, 1, OURS):
        for rival in measured(bench, 1, RIVALS):
            cells = [str(lead(bench, 1, name, rival, each)) for each in LEADS]
            yield f"| {name} | {rival} | {' | '.join(cells)} |"


def tuning_lines(benches: list[Bench], found: dict[str, list[float]]) -> Iterator[str]:
    """Yield what single changes of `paper` do on the tuning half."""
    shown = (DIFFERENCE, *SCORES[3:])
    names = [
        f"{bench.model}: {each.name}" for bench in benches for each in (*shown, STABILITIES[0])
    ]
    yield f"| | {' | '.join(names)} | on the object | hull | mass | greyhound | bull |"
    yield "|---" * (len(names) + 6) + "|"
    known = [measured(bench, 0, VARIANTS) for bench in benches]
    for name in filter(lambda name: all(name in each for each in known), VARIANTS):
        cells = []
        for bench in benches:
            if name == "standard":
                means = [scores(bench, 0, name, each).interval().mean for each in shown]
                cells += [f"{each:.3f}" for each in means]
            else:
                cells += [str(lead(bench, 0, name, "standard", each)) for each in shown]
            rows = [bench.rows()[photo.stem, name] for _, photo in bench.half(0)]
            cells.append(f"{np.mean([[row[each.name] for each in STABLE] for row in rows]):.3f}")
        yield f"| {name} | {' | '.join([*cells, *place_cells(found.get(name))])} |"


def place_cells(values: list[float] | None) -> list[str]:
    if values is None:
        return [""] * 5
    on_it, inside, mass, *dogs = values
    return [f"{on_it:.1%}", f"{inside:.1%}", *(f"{each:.2f}" for each in (mass, *dogs))]


def show(args: argparse.Namespace) -> None:
    """Print the tables and draw the figures."""
    benches = [Bench(args, model) for model in args.model or MODELS]
    file = args.work / "study-places.csv"
    rows = list(csv.reader(file.open(newline=""))) if file.exists() else []
    found = {row[0]: [float(each) for each in row[1:]] for row in rows}
    for bench in benches:
        print(f"\nHeld-back half, {bench.model}\n", *report_lines(bench), sep="\n")
        print("\n", *lead_lines(bench), sep="\n")
    if args.model:
        return
    print("\n| | on the object | hull | mass | greyhound | bull |\n|---|---|---|---|---|---|")
    for name in (*IBISA, "gradcam"):
        print(f"| {name} | {' | '.join(place_cells(found.get(name)))} |")
    plot(benches)
    gallery(benches)
    print("\nTuning half\n", *tuning_lines(benches, found), sep="\n")


def plot(benches: list[Bench]) -> None:
    """Draw quality against passes on the held-back half."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6.4), layout="constrained")
    grid = figure.subplots(2, len(benches), sharey="row")
    for row, metric in zip(grid, (DIFFERENCE, LERF_MORF["mean"]), strict=True):
        for axes, bench in zip(row, benches, strict=True):
            rows, stems = bench.rows(), [photo.stem for _, photo in bench.half(1)]
            for name in measured(bench, 1, (*OURS, *RIVALS)):
                own = [rows[stem, name] for stem in stems]
                passes = np.mean([each["forward"] + each["backward"] for each in own])
                score = scores(bench, 1, name, metric).interval()
                colour = "tab:gray" if name in RIVALS else "tab:red"
                axes.errorbar(
                    [passes], [score.mean], [score.half], fmt="o", capsize=3, color=colour
                )
                place = {"xytext": (6, 4), "textcoords": "offset points", "color": colour}
                axes.annotate(name, (passes, score.mean), **place)
            axes.set(xscale="log", title=bench.model, xlabel="forward + backward passes for a map")
            axes.margins(x=0.2)
            axes.grid(alpha=0.3)
        row[0].set_ylabel(metric.name)
    figure.savefig(FIGURES / "study.png", dpi=130, metadata={"Software": None})


def gallery(benches: list[Bench]) -> None:
    """Draw twenty photographs with maps of IBISA, RISE, Grad-CAM and IBA, ten of each model."""
    from ibisa_onnx.io.images import read_image
    from ibisa_onnx.io.overlay import blend

    columns = []
    for bench in benches:
        rows = []
        for number, photo in bench.half(1)[: SHOWN // 2]:
            problem = bench.plain.problem(photo)
            rise = problem.row.geometry.restore(stretched(bench.rise(number, problem, photo)))
            maps = [bench.stored("standard", photo), rise]
            maps += [bench.stored(name, photo) for name in ("gradcam", "iba")]
            image = read_image(photo)
            panels = [image, *(blend(image, each) for each in maps)]
            rows.append(np.hstack([square(each) for each in panels]))
        columns.append(np.vstack(rows))
    picture = np.hstack(
        [columns[0], np.full((columns[0].shape[0], 12, 3), 255, np.uint8), columns[1]]
    )
    data = [cv2.IMWRITE_JPEG_QUALITY, 85]
    cv2.imwrite(str(FIGURES / "gallery.jpg"), picture[..., ::-1], data)


def stretched(map: np.ndarray) -> np.ndarray:
    return ((map - map.min()) / max(float(np.ptp(map)), 1e-12)).astype(np.float32)


def square(image: np.ndarray, side: int = 128) -> np.ndarray:
    """Return the middle square."""
    height, width = image.shape[:2]
    length = min(height, width)
    top, left = (height - length) // 2, (width - length) // 2
    part = image[top : top + length, left : left + length]
    return cv2.resize(part, (side, side), interpolation=cv2.INTER_AREA)


def main() -> None:
    """Do what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("tune", "report", "places", "show", "all"))
    parser.add_argument("assets", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--model", action="append", help="a model's name, or a file")
    parser.add_argument("--every", type=int, default=1, help="take every n-th photograph")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    benches = [Bench(args, model) for model in args.model or MODELS]
    for bench in benches:
        if args.what in ("report", "all"):
            report(bench)
        if args.what in ("tune", "all"):
            tune(bench)
    if args.what in ("places", "all"):
        places(args)
    if args.what in ("show", "all"):
        show(args)


if __name__ == "__main__":
    main()

"""IBISA's defaults: variants tuned on half of the photographs, presets reported on the other half.

    python benchmarks/study.py tune ASSETS WORK --model squeezenet
    python benchmarks/study.py tune ASSETS WORK --model mobilenetv2
    python benchmarks/study.py report ASSETS WORK --model squeezenet
    python benchmarks/study.py report ASSETS WORK --model mobilenetv2
    python benchmarks/study.py places ASSETS WORK
    python benchmarks/study.py show ASSETS WORK

`tune` scores single changes of settings on the photographs of even number; `report` scores the
presets, and RISE, Grad-CAM and IBA, on those of odd number; `places` asks where maps of planted
scenes and of two dogs fall. What is measured is kept in WORK, so that an interrupted run goes on
where it stopped; `show` prints the tables and draws the figures of docs/results.md. `all` does
everything, one after the other.

A map is scored as by `ibisa-onnx bench`: insertion minus deletion of the predicted class, at what
the model sees of the photograph. RISE's maps are those of `photographs.py`, if WORK has them.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
from photographs import EARLIER as BASE
from photographs import PRESETS, rise_map
from planted import hull

from ibisa_onnx import Explainer, Options, Overrides
from ibisa_onnx.benchmark.evaluation import evaluate, subject_of
from ibisa_onnx.demo import model_path
from ibisa_onnx.demo.scenes import draw_scene
from ibisa_onnx.methods.grad_cam import GradCam
from ibisa_onnx.methods.iba import Iba
from ibisa_onnx.methods.ibisa.options import PRESETS as IBISA
from ibisa_onnx.metrics import DELETION, INSERTION, INSERTION_MINUS_DELETION, Interval, Scores
from ibisa_onnx.metrics.correlation import rank_correlation

MODELS = ("squeezenet", "mobilenetv2")
FIGURES = Path(__file__).parents[1] / "docs" / "figures"
# The base was varied first; what came of it was changed step by step to the present `paper`.
VARIANTS: dict[str, Options] = {
    "base": BASE,
    "grid 28": replace(BASE, grid=28),
    "grid 80": replace(BASE, grid=80),
    "smoothing 0.5": replace(BASE, smoothing=0.5),
    "smoothing 2": replace(BASE, smoothing=2.0),
    "first smoothing 4": replace(BASE, first_smoothing=4.0),
    "first smoothing 6": replace(BASE, first_smoothing=6.0),
    "temperature 0.5": replace(BASE, temperature=0.5),
    "temperature 1.5": replace(BASE, temperature=1.5),
    "KL to prior 0.05, beta 4": replace(BASE, information="kl", beta=4.0),
    "KL to prior 0.2, beta 10": replace(BASE, information="kl", beta=10.0, prior=0.2),
    "beta 10": replace(BASE, beta=10.0),
    "beta 40": replace(BASE, beta=40.0),
    "start 1": replace(BASE, start=1.0),
    "start 3": replace(BASE, start=3.0),
    "learning rate 2": replace(BASE, learning_rate=2.0),
    "plain Adam": replace(BASE, pooling=0.0),
    "pooling 8": replace(BASE, pooling=8.0),
    "no waves, noise 1": replace(BASE, wave_amplitude=0.0, noise=1.0),
    "waves 1": replace(BASE, wave_amplitude=1.0),
    "waves 3": replace(BASE, wave_amplitude=3.0),
    "frequency 2": replace(BASE, wave_frequency=2.0),
    "frequency 5": replace(BASE, wave_frequency=5.0),
    "noise 0.2": replace(BASE, noise=0.2),
    "blur halved": replace(BASE, blur=BASE.blur / 2),
    "blur doubled": replace(BASE, blur=BASE.blur * 2),
    "mean for baseline": replace(BASE, baseline="mean"),
    "noise for baseline": replace(BASE, baseline="noise"),
    "no evidence": replace(BASE, evidence=0.0),
    "evidence 0.5": replace(BASE, evidence=0.5),
    "evidence 0.75": replace(BASE, evidence=0.75),
    "evidence 1": replace(BASE, evidence=1.0),
    "evidence smoothed by 0.5": replace(BASE, evidence_smoothing=0.5),
    "evidence smoothed by 2": replace(BASE, evidence_smoothing=2.0),
    "beta by the kept answer": replace(BASE, penalty_exponent=1.0),
    "and beta 10 to 40": replace(BASE, penalty_exponent=1.0, beta=40.0, first_beta=0.25),
    "and first smoothing 6": replace(IBISA["paper"], wave_amplitude=2.0, first_wave_amplitude=1.0),
    "and waves 2 to 1": IBISA["paper"],
    "this, but first smoothing 4": replace(IBISA["paper"], first_smoothing=4.0),
    "this, but beta always whole": replace(IBISA["paper"], penalty_exponent=0.0),
    "this, but evidence smoothed by 1.5": replace(IBISA["paper"], evidence_smoothing=1.5),
}
RIVALS = ("rise-4000", "gradcam", "iba")
TURNED = {
    f"{name}, turned": replace(IBISA[name], wave_angle=IBISA[name].wave_angle + 0.157)
    for name in ("paper", "fast")
}
SHOWN = 20  # maps side by side
SCENES, FEWER, FIRST_SCENE = 300, 100, 200_000  # fewer for variants; none that was tuned on

Key = tuple[str, str]
"""Photograph and method."""


class Bench:
    """One model with the photographs of one half, and where its maps and scores are kept."""

    def __init__(self, args: argparse.Namespace, model: str) -> None:
        self.assets, self.work, self.model = args.assets, args.work, model
        self.path = args.assets / "models" / f"{model}.onnx"
        self.photos = sorted((args.assets / "images").glob("*.JPEG"))
        self.file = args.work / f"study-{model}.csv"

    @cached_property
    def plain(self) -> Explainer:
        """One for all variants, whose options are set: each of its own would open the gradient."""
        return Explainer(self.path, preprocessing=PRESETS[self.model], threads=1)

    @cached_property
    def methods(self) -> dict[str, GradCam | Iba]:
        """Opened once: IBA's estimate takes a pass for each photograph."""
        return {"gradcam": GradCam(), "iba": Iba(tuple(map(str, self.photos)))}

    def rows(self) -> dict[Key, list[float]]:
        """Return insertion, deletion, forward and backward passes of all that was measured."""
        if not self.file.exists():
            return {}
        with self.file.open(newline="") as lines:
            return {(row[0], row[1]): [float(x) for x in row[2:6]] for row in csv.reader(lines)}

    def fill(self, names: dict[str, Options | None], half: int) -> None:
        """Measure what is missing of the methods, on the photographs of even or odd number."""
        known = self.rows()
        for number, photo in list(enumerate(self.photos))[half::2]:
            missing = [name for name in names if (photo.stem, name) not in known]
            if not missing:
                continue
            problem = self.plain.problem(photo)
            subject, index = subject_of(problem), problem.row.objective.describe()["index"]
            for name in missing:
                map, cost = self.map_of(name, number, photo, index, names[name])
                scores = evaluate(subject, problem, map, [INSERTION, DELETION])
                with self.file.open("a", newline="") as lines:
                    csv.writer(lines).writerow([photo.stem, name, *scores.values(), *cost])
            print(self.model, photo.stem, flush=True)

    def map_of(
        self, name: str, number: int, photo: Path, index: int, options: Options | None
    ) -> tuple[np.ndarray, list[float]]:
        """Return a method's map, kept in WORK, and its passes."""
        if name == "rise-4000":
            return self.rise(number, photo), [4000, 0]
        method = self.methods[name] if options is None else None
        self.plain.options = options or BASE
        found = self.plain.explain(photo, index, method=method)
        if name not in VARIANTS or name == "base":
            file = self.work / "study-maps" / self.model / name / f"{photo.stem}.npy"
            file.parent.mkdir(parents=True, exist_ok=True)
            np.save(file, found.map)
        return found.map, [found.passes.forward, found.passes.backward]

    def rise(self, number: int, photo: Path) -> np.ndarray:
        """Return RISE's map of what the model sees, [h, w]."""
        problem = self.plain.problem(photo)
        file = self.work / f"rise-4000-{self.model}" / f"{photo.stem}.npy"
        return rise_map(file, problem.score, problem.image[0], 4000, number)

    def kept(self, name: str, photo: Path) -> np.ndarray:
        return np.load(self.work / "study-maps" / self.model / name / f"{photo.stem}.npy")


def tune(bench: Bench) -> None:
    bench.fill({"rise-4000": None, **VARIANTS}, 0)


def report(bench: Bench) -> None:
    bench.fill({**dict.fromkeys(RIVALS), **IBISA, **TURNED}, 1)


def places(args: argparse.Namespace) -> None:
    """Ask where maps fall."""
    file = args.work / "study-places.csv"
    done = {row[0] for row in csv.reader(file.open(newline=""))} if file.exists() else set()
    methods: dict[str, tuple[Options, Callable[[], object] | None]] = {
        **{name: (options, None) for name, options in {**VARIANTS, **IBISA}.items()},
        "gradcam": (BASE, GradCam),
    }
    for name, (options, method) in methods.items():
        if name in done:
            continue
        scenes = FEWER if name in VARIANTS else SCENES
        row = [*planted(options, method, scenes), *two_dogs(args.assets, options, method)]
        with file.open("a", newline="") as lines:
            csv.writer(lines).writerow([name, *row])
        print(name, *(f"{each:.3f}" for each in row), flush=True)


def planted(
    options: Options, method: Callable[[], object] | None, scenes: int
) -> tuple[float, float, float]:
    """Return the share of right peaks, of scenes with all right, and the mean mass in the hull."""
    explainer = Explainer(model_path(), providers=["cpu"], threads=1, options=options)
    right, whole, masses = [], [], []
    for number in range(scenes):
        scene = draw_scene(np.random.default_rng(FIRST_SCENE + number), count=1 + number % 3)
        targets, peaks = [item.index for item in scene.objects], []
        found = explainer.explain_all(scene.image, targets, method=method and method())
        for item, explanation in zip(scene.objects, found, strict=True):
            inside, map = hull(item.mask), explanation.map
            peaks.append(bool(inside[np.unravel_index(map.argmax(), map.shape)]))
            masses.append(map[inside].sum() / max(map.sum(), 1e-9))
        right += peaks
        whole.append(all(peaks))
    return float(np.mean(right)), float(np.mean(whole)), float(np.mean(masses))


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


def scores(bench: Bench, half: int, name: str) -> Scores:
    """Return insertion minus deletion of a method on one half of the photographs."""
    rows = bench.rows()
    found = [rows[photo.stem, name] for photo in bench.photos[half::2]]
    return Scores(INSERTION_MINUS_DELETION, np.array([row[0] - row[1] for row in found]))


def lead(bench: Bench, half: int, name: str, other: str) -> Interval:
    """Return the mean lead of a method over another, photograph by photograph."""
    return scores(bench, half, name).minus(scores(bench, half, other))


def tuning_lines(benches: list[Bench], found: dict[str, list[float]]) -> Iterator[str]:
    yield (
        "| | squeezenet, gap to RISE-4000 | to the base | mobilenetv2, gap | to the base "
        "| peaks | scenes | mass | greyhound | bull |"
    )
    yield "|---" * 10 + "|"
    for name in VARIANTS:
        cells = []
        for bench in benches:
            gap = lead(bench, 0, name, "rise-4000").mean
            change = "" if name == "base" else str(lead(bench, 0, name, "base"))
            cells += [f"{gap:+.3f}", change]
        yield f"| {name} | {' | '.join([*cells, *place_cells(found.get(name))])} |"


def place_cells(values: list[float] | None) -> list[str]:
    if values is None:
        return [""] * 5
    peaks, scenes, mass, *dogs = values
    return [f"{peaks:.1%}", f"{scenes:.1%}", *(f"{each:.2f}" for each in (mass, *dogs))]


def report_lines(bench: Bench, found: dict[str, list[float]]) -> Iterator[str]:
    rows = bench.rows()
    stems = [photo.stem for photo in bench.photos[1::2]]
    yield (
        "| method | insertion ↑ | deletion ↓ | difference ↑ | to RISE-4000 | to Grad-CAM | to IBA "
        "| passes |"
    )
    yield "|---" * 8 + "|"
    for name in (*IBISA, *RIVALS):
        values = np.array([rows[stem, name] for stem in stems if (stem, name) in rows])
        means = values.mean(0)
        leads = ["" if name in RIVALS else str(lead(bench, 1, name, rival)) for rival in RIVALS]
        yield (
            f"| {name} | {means[0]:.3f} | {means[1]:.3f} | {means[0] - means[1]:.3f} "
            f"| {' | '.join(leads)} | {means[2]:.0f} + {means[3]:.0f} |"
        )


def agreement(bench: Bench, name: str) -> float:
    """Return the mean Spearman correlation of a preset's maps under waves of other directions."""
    pairs = (
        (bench.kept(name, photo), bench.kept(f"{name}, turned", photo))
        for photo in bench.photos[1::2]
    )
    found = [rank_correlation(a.ravel()[::5], b.ravel()[::5]) for a, b in pairs]
    return float(np.mean(found))


def show(args: argparse.Namespace) -> None:
    """Print the tables and draw the figures."""
    benches = [Bench(args, model) for model in MODELS]
    file = args.work / "study-places.csv"
    rows = list(csv.reader(file.open(newline=""))) if file.exists() else []
    found = {row[0]: [float(each) for each in row[1:]] for row in rows}
    print("Tuning half\n", *tuning_lines(benches, found), sep="\n")
    for bench in benches:
        print(f"\nHeld-back half, {bench.model}\n", *report_lines(bench, found), sep="\n")
        turned = {name: round(agreement(bench, name), 3) for name in ("paper", "fast")}
        print("\nSpearman under waves of other directions:", turned)
    print("\n| | peaks | scenes | mass | greyhound | bull |\n|---|---|---|---|---|---|")
    for name in (*IBISA, "gradcam"):
        print(f"| {name} | {' | '.join(place_cells(found.get(name)))} |")
    plot(benches)
    gallery(benches)


def plot(benches: list[Bench]) -> None:
    """Draw quality against passes on the held-back half."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, bench in zip(figure.subplots(1, 2, sharey=True), benches, strict=True):
        rows, stems = bench.rows(), [photo.stem for photo in bench.photos[1::2]]
        for name in (*IBISA, *RIVALS):
            values = np.array([rows[stem, name] for stem in stems if (stem, name) in rows])
            score, passes = scores(bench, 1, name).interval(), values[:, 2:4].sum(1).mean()
            colour = "tab:gray" if name in RIVALS else "tab:red"
            axes.errorbar([passes], [score.mean], [score.half], fmt="o", capsize=3, color=colour)
            place = {"xytext": (6, 4), "textcoords": "offset points", "color": colour}
            axes.annotate(name, (passes, score.mean), **place)
        axes.set(xscale="log", title=bench.model, xlabel="forward + backward passes for a map")
        axes.margins(x=0.2)
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("insertion minus deletion")
    figure.savefig(FIGURES / "study.png", dpi=130, metadata={"Software": None})


def gallery(benches: list[Bench]) -> None:
    """Draw twenty photographs with maps of IBISA, RISE, Grad-CAM and IBA, ten of each model."""
    from ibisa_onnx.io.images import read_image
    from ibisa_onnx.io.overlay import blend

    columns = []
    for bench in benches:
        rows = []
        for number, photo in list(enumerate(bench.photos))[1::2][: SHOWN // 2]:
            geometry = bench.plain.problem(photo).row.geometry
            image = read_image(photo)
            maps = [bench.kept("paper", photo)]
            maps.append(geometry.restore(stretched(bench.rise(number, photo))))
            maps += [bench.kept(name, photo) for name in ("gradcam", "iba")]
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
    parser.add_argument("--model", choices=MODELS, action="append")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    benches = [Bench(args, model) for model in args.model or MODELS]
    for bench in benches:
        if args.what in ("tune", "all"):
            tune(bench)
        if args.what in ("report", "all"):
            report(bench)
    if args.what in ("places", "all"):
        places(args)
    if args.what in ("show", "all"):
        show(args)


if __name__ == "__main__":
    main()

"""Explanations from forward passes alone, held against each other and against RISE and AISE.

    python benchmarks/forward_only.py measure ASSETS WORK --model squeezenet
    python benchmarks/forward_only.py measure ASSETS WORK --model mobilenetv2
    python benchmarks/forward_only.py curves ASSETS WORK --model squeezenet
    python benchmarks/forward_only.py curves ASSETS WORK --model mobilenetv2
    python benchmarks/forward_only.py twins ASSETS WORK
    python benchmarks/forward_only.py report ASSETS WORK

`measure` scores forward-only and centred RISE on all photographs, and AISE's maps where
`benchmarks/aise.py` has left them in WORK; `curves` scores every estimator on a sixth of the
photographs, from 25 to 2000 forward passes; `twins` compares the maps of an 8-bit model with those
of the float model it was made from. What is measured is appended to files in WORK, so that an
interrupted run goes on where it stopped and several may run side by side. `report` prints the
tables and draws docs/figures/forward-only.png.

A map is scored as in `faithfulness.py`: insertion minus deletion. Passes are all that is spent for
a map, also those for prediction, check and proof of an open batch; RISE and AISE have no such.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
from faithfulness import PRESETS, explainer_of_crops, measure, rise_map, score_of
from scipy.stats import spearmanr

from ibisa_onnx import Explainer
from ibisa_onnx.baselines import rise
from ibisa_onnx.model import prepare, read_image
from ibisa_onnx.model.preprocessing import unprepare

FIGURE = Path(__file__).parents[1] / "docs" / "figures" / "forward-only.png"
MODELS = ("squeezenet", "mobilenetv2")
AISES, AISE = ("aise", "aise-centred"), (150, 300, 680)
TARGETS = (100, 200, 400)
CURVE = (25, 50, 100, 200, 400, 800, 2000)
OURS = ("forward-only", "finite-difference", "spsa", "rloo")
RISES = ("rise", "centred rise")
EVERY = 6  # of the photographs, for the curves
MASKS = 4000  # of the RISE that all are held against
TWINS, TWIN_BUDGET = ("mobilenetv2", "mobilenetv2_int8"), 400

Key = tuple[str, str, int]
"""Photograph, method and forward passes."""


@dataclass(frozen=True)
class Photograph:
    """A photograph as a model sees it."""

    assets: Path
    work: Path
    model: str
    number: int
    path: Path

    @cached_property
    def crop(self) -> np.ndarray:
        """The part that the model sees, uint8 [H, W, 3]."""
        spec = explainers(self.assets, self.model)[0].preprocessing.spec
        return unprepare(prepare(read_image(self.path), spec).tensor, spec)

    @cached_property
    def image(self) -> np.ndarray:
        """The same in model space, float32 [C, H, W]."""
        return prepare(self.crop, self.fitted.preprocessing.spec).tensor[0]

    @property
    def fitted(self) -> Explainer:
        """An explainer that takes the crop as it is."""
        return explainers(self.assets, self.model)[1]

    @cached_property
    def score(self) -> Callable[[np.ndarray], np.ndarray]:
        """The predicted class's probability."""
        return score_of(self.fitted, self.image)

    def map(self, method: str, passes: int) -> np.ndarray:
        """Return a method's map, float32 [H, W]."""
        if method == "rise-4000":
            file = self.work / f"rise-{MASKS}-{self.model}" / f"{self.path.stem}.npy"
            return rise_map(file, self.score, self.image, MASKS, self.number)
        if method in RISES:
            rng, centred = np.random.default_rng(self.number), method == "centred rise"
            return rise(self.score, self.image, rng=rng, masks=passes, centred=centred)
        if method in AISES:
            return np.load(self.work / f"{method}-{passes}-{self.model}" / f"{self.path.stem}.npy")
        return explain(self.fitted, self.crop, method, passes)


_opened: dict[str, tuple[Explainer, Explainer]] = {}


def explainers(assets: Path, model: str) -> tuple[Explainer, Explainer]:
    """Return the explainers of whole photographs and of crops, opened once."""
    if model not in _opened:
        _opened[model] = explainer_of_crops(assets, model, 1)
    return _opened[model]


def explain(fitted: Explainer, crop: np.ndarray, gradient: str, budget: int) -> np.ndarray:
    """Return our map."""
    spec = fitted.preprocessing.spec
    explainer = Explainer(fitted.model, preprocessing=spec, gradient=gradient, budget=budget)
    return explainer.explain(crop).map


def photographs(assets: Path, work: Path, model: str) -> Iterator[Photograph]:
    """Yield all of them."""
    for number, path in enumerate(sorted((assets / "images").glob("*.JPEG"))):
        yield Photograph(assets, work, model, number, path)


def read(file: Path) -> dict[Key, float]:
    """Return insertion minus deletion of all that was measured."""
    if not file.exists():
        return {}
    with file.open(newline="") as lines:
        rows = list(csv.reader(lines))
    return {(row[0], row[1], int(row[2])): float(row[3]) - float(row[4]) for row in rows}


def fill(args: argparse.Namespace, wanted: list[tuple[str, int]], every: int) -> None:
    """Measure what is missing of `wanted` methods and passes."""
    file = args.work / f"forward-only-{args.model}.csv"
    wanted = [each for each in wanted if args.only is None or each[0] in args.only]
    for photo in list(photographs(args.assets, args.work, args.model))[::every]:
        for method, passes in wanted:
            if (photo.path.stem, method, passes) in read(file):
                continue
            if method in AISES and not (args.work / f"{method}-{passes}-{args.model}").exists():
                continue
            scores = measure(photo.score, photo.image, photo.map(method, passes))
            with file.open("a", newline="") as lines:
                csv.writer(lines).writerow([photo.path.stem, method, passes, *scores])
        print(args.model, photo.path.stem, flush=True)


def twins(args: argparse.Namespace) -> None:
    """Measure how alike the maps of the float and of the 8-bit model are."""
    file = args.work / "forward-only-twins.csv"
    for one, other in zip(
        *(photographs(args.assets, args.work, model) for model in TWINS), strict=True
    ):
        done = {key[0] for key in read(file)}
        if one.path.stem in done:
            continue
        index = one.fitted.predict(one.crop, 1)[0].index
        maps = []
        for photo in (one, other):
            spec = photo.fitted.preprocessing.spec
            explainer = Explainer(
                photo.fitted.model,
                preprocessing=spec,
                gradient="forward-only",
                budget=TWIN_BUDGET,
            )
            maps.append(explainer.explain(photo.crop, index).map)
        agreement = spearmanr(*(each.ravel() for each in maps)).statistic
        with file.open("a", newline="") as lines:
            csv.writer(lines).writerow([one.path.stem, "twins", TWIN_BUDGET, agreement, 0])
        print(one.path.stem, f"{agreement:.3f}", flush=True)


def gap(values: dict[Key, float], passes: int, other: tuple[str, int]) -> str:
    """Return forward-only's paired difference to another method with its 95% interval."""
    found = [
        value - values[photo, *other]
        for (photo, *key), value in values.items()
        if tuple(key) == ("forward-only", passes) and (photo, *other) in values
    ]
    if len(found) < 2:
        return "not measured"
    half = 1.96 * np.std(found, ddof=1) / np.sqrt(len(found))
    return f"{np.mean(found):+.3f} ± {half:.3f}"


def tables(args: argparse.Namespace) -> None:
    """Print the tables."""
    for heads, budgets, rivals in (
        (("RISE-4000", "centred RISE, as many"), TARGETS, ("rise-4000", "centred rise")),
        (("RISE-4000", "AISE", "AISE, centred"), AISE, ("rise-4000", *AISES)),
    ):
        print(f"| model | forward passes | gap to {' | to '.join(heads)} |")
        print("|---|---|" + "---|" * len(heads))
        for model in MODELS:
            values = read(args.work / f"forward-only-{model}.csv")
            for passes in budgets:
                gaps = [
                    gap(values, passes, (rival, MASKS if rival == "rise-4000" else passes))
                    for rival in rivals
                ]
                print(f"| {model} | {passes} | {' | '.join(gaps)} |")
        print()
    found = read(args.work / "forward-only-twins.csv").values()
    if found:
        print(
            f"8-bit twin, {len(found)} photographs, {TWIN_BUDGET} passes: "
            f"Spearman {np.mean(list(found)):.3f} in the mean, {min(found):.3f} at the least"
        )


def plot(args: argparse.Namespace) -> None:
    """Draw quality against forward passes."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(MODELS), figsize=(11, 4.2), sharey=True)
    for axis, model in zip(axes, MODELS, strict=True):
        values = read(args.work / f"forward-only-{model}.csv")
        some = {
            photo.path.stem for photo in list(photographs(args.assets, args.work, model))[::EVERY]
        }
        for method in (*OURS, *RISES, *AISES):
            passes = AISE if method in AISES else CURVE
            means = [
                np.mean([values.get((photo, method, each), np.nan) for photo in some])
                for each in passes
            ]
            axis.plot(passes, means, marker="o", markersize=3, label=method)
        level = np.mean([values.get((photo, "rise-4000", MASKS), np.nan) for photo in some])
        axis.axhline(level, color="grey", linestyle=":", label="rise, 4000 passes")
        axis.set(xscale="log", title=model, xlabel="forward passes")
        axis.set_xticks(CURVE, map(str, CURVE))
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("insertion minus deletion")
    axes[-1].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(FIGURE, dpi=110)
    image = cv2.imread(str(FIGURE))
    cv2.imwrite(str(FIGURE), image, [cv2.IMWRITE_PNG_COMPRESSION, 9])


def main() -> None:
    """Measure, or report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("measure", "curves", "twins", "report"))
    parser.add_argument("assets", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--model", choices=PRESETS, default=MODELS[0])
    parser.add_argument("--only", action="append", help="measure this method alone; repeatable")
    args = parser.parse_args()
    if args.what == "measure":
        wanted = [("rise-4000", MASKS)]
        wanted += [(method, n) for n in TARGETS for method in ("forward-only", "centred rise")]
        wanted += [(method, n) for n in AISE for method in ("forward-only", *AISES)]
        fill(args, wanted, 1)
    elif args.what == "curves":
        fill(args, [(method, n) for n in CURVE for method in (*OURS, *RISES)], EVERY)
    elif args.what == "twins":
        twins(args)
    else:
        tables(args)
        plot(args)


if __name__ == "__main__":
    main()

"""Explanations from forward passes alone, held against each other and against RISE and AISE.

    python benchmarks/forward_only.py measure ASSETS WORK --model squeezenet
    python benchmarks/forward_only.py measure ASSETS WORK --model mobilenetv2
    python benchmarks/forward_only.py curves ASSETS WORK --model squeezenet
    python benchmarks/forward_only.py curves ASSETS WORK --model mobilenetv2
    python benchmarks/forward_only.py quantised ASSETS WORK
    python benchmarks/forward_only.py report ASSETS WORK

`measure` scores forward-only and centred RISE on all photographs, and AISE's maps where
`benchmarks/aise.py` has left them in WORK; `curves` scores every estimator on a sixth of the
photographs, from 25 to 2000 forward passes; `quantised` compares the maps of an 8-bit model with
those of the float model it was made from. What is measured is appended to files in WORK, so that an
interrupted run goes on where it stopped and several may run side by side. `report` prints the
tables and draws docs/figures/forward-only.png.

A map is scored by RISE's protocol: insertion minus deletion. Passes are all that is spent for
a map, also those for prediction, check and proof of an open batch; RISE and AISE have no such.
"""

from __future__ import annotations

import argparse
import csv
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from estimators import ESTIMATORS, with_estimator
from photographs import (
    EARLIER,
    PRESETS,
    Photograph,
    explainer_of_crops,
    measure,
    photographs,
    rise_map,
)

from ibisa_onnx import Explainer
from ibisa_onnx.methods.rise import rise
from ibisa_onnx.metrics import INSERTION_MINUS_DELETION, Scores, spearman

FIGURE = Path(__file__).parents[1] / "docs" / "figures" / "forward-only.png"
MODELS = ("squeezenet", "mobilenetv2")
AISES, AISE = ("aise", "aise-centred"), (150, 300, 680)
TARGETS = (100, 200, 400)
CURVE = (25, 50, 100, 200, 400, 800, 2000)
OURS = ("forward-only", "finite-difference", *ESTIMATORS)
RISES = ("rise", "centred-rise")
EVERY = 6  # of the photographs, for the curves
MASKS = 4000  # of the RISE that all are held against
PAIR, PAIR_BUDGET = ("mobilenetv2", "mobilenetv2_int8"), 400
# Of the estimators that take IBISA's steps; the defaults when the curves were drawn.
STEPS = replace(EARLIER, evidence_smoothing=1.5)

Key = tuple[str, str, int]
"""Photograph, method and forward passes."""


def map_of(photo: Photograph, work: Path, model: str, method: str, passes: int) -> np.ndarray:
    """Return a method's map, float32 [H, W]."""
    name = f"{photo.path.stem}.npy"
    if method == "rise-4000":
        file = work / f"rise-{MASKS}-{model}" / name
        return rise_map(file, photo.score, photo.image, MASKS, photo.number)
    if method in RISES:
        rng, centred = np.random.default_rng(photo.number), method == "centred-rise"
        return rise(photo.score, photo.image, rng=rng, masks=passes, centred=centred)
    if method in AISES:
        return np.load(work / f"{method}-{passes}-{model}" / name)
    return explain(photo, method, passes)


def explain(photo: Photograph, gradient: str, budget: int, target: int | None = None) -> np.ndarray:
    """Return our map."""
    spec = photo.fitted.preprocessing.spec
    explainer = Explainer(
        photo.fitted.model,
        preprocessing=spec,
        gradient="finite-difference" if gradient in ESTIMATORS else gradient,
        options=STEPS,
        budget=budget,
    )
    method = with_estimator(explainer, gradient) if gradient in ESTIMATORS else None
    return explainer.explain(photo.crop, target, method=method).map


def photographs_of(assets: Path, model: str) -> list[Photograph]:
    """Return all photographs as a model sees them."""
    return photographs(assets, *explainer_of_crops(assets, model, 1))


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
    for photo in photographs_of(args.assets, args.model)[::every]:
        for method, passes in wanted:
            if (photo.path.stem, method, passes) in read(file):
                continue
            if method in AISES and not (args.work / f"{method}-{passes}-{args.model}").exists():
                continue
            scores = measure(
                photo.score, photo.image, map_of(photo, args.work, args.model, method, passes)
            )
            with file.open("a", newline="") as lines:
                csv.writer(lines).writerow([photo.path.stem, method, passes, *scores])
        print(args.model, photo.path.stem, flush=True)


def quantised(args: argparse.Namespace) -> None:
    """Measure how alike the maps of the float and of the 8-bit model are."""
    file = args.work / "forward-only-quantised.csv"
    seen = (photographs_of(args.assets, model) for model in PAIR)
    for one, other in zip(*seen, strict=True):
        if one.path.stem in {key[0] for key in read(file)}:
            continue
        index = one.fitted.predict(one.crop, 1)[0].index
        maps = [explain(photo, "forward-only", PAIR_BUDGET, index) for photo in (one, other)]
        agreement = spearman(*maps)
        with file.open("a", newline="") as lines:
            csv.writer(lines).writerow([one.path.stem, "quantised", PAIR_BUDGET, agreement, 0])
        print(one.path.stem, f"{agreement:.3f}", flush=True)


def paired_difference(values: dict[Key, float], passes: int, other: tuple[str, int]) -> str:
    """Return forward-only's paired difference to another method with its 95% interval."""
    found = [
        value - values[photo, *other]
        for (photo, *key), value in values.items()
        if tuple(key) == ("forward-only", passes) and (photo, *other) in values
    ]
    if len(found) < 2:
        return "not measured"
    return str(Scores(INSERTION_MINUS_DELETION, np.array(found)).interval())


def tables(args: argparse.Namespace) -> None:
    """Print the tables."""
    for heads, budgets, rivals in (
        (("RISE-4000", "centred RISE, as many"), TARGETS, ("rise-4000", "centred-rise")),
        (("RISE-4000", "AISE", "AISE, centred"), AISE, ("rise-4000", *AISES)),
    ):
        print(f"| model | forward passes | paired difference to {' | to '.join(heads)} |")
        print("|---|---|" + "---|" * len(heads))
        for model in MODELS:
            values = read(args.work / f"forward-only-{model}.csv")
            for passes in budgets:
                gaps = [
                    paired_difference(
                        values, passes, (rival, MASKS if rival == "rise-4000" else passes)
                    )
                    for rival in rivals
                ]
                print(f"| {model} | {passes} | {' | '.join(gaps)} |")
        print()
    found = read(args.work / "forward-only-quantised.csv").values()
    if found:
        print(
            f"8-bit model, {len(found)} photographs, {PAIR_BUDGET} passes: "
            f"Spearman {np.mean(list(found)):.3f} in the mean, {min(found):.3f} at the least"
        )


def plot(args: argparse.Namespace) -> None:
    """Draw quality against forward passes."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(MODELS), figsize=(12.5, 4.2), sharey=True)
    for axis, model in zip(axes, MODELS, strict=True):
        values = read(args.work / f"forward-only-{model}.csv")
        some = {photo.path.stem for photo in photographs_of(args.assets, model)[::EVERY]}
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
    axes[-1].legend(fontsize=8, bbox_to_anchor=(1.02, 1), loc="upper left")
    figure.tight_layout()
    figure.savefig(FIGURE, dpi=110)
    image = cv2.imread(str(FIGURE))
    cv2.imwrite(str(FIGURE), image, [cv2.IMWRITE_PNG_COMPRESSION, 9])


def main() -> None:
    """Measure, or report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("measure", "curves", "quantised", "report"))
    parser.add_argument("assets", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--model", choices=PRESETS, default=MODELS[0])
    parser.add_argument("--only", action="append", help="measure this method alone; repeatable")
    args = parser.parse_args()
    if args.what == "measure":
        wanted = [("rise-4000", MASKS)]
        wanted += [(method, n) for n in TARGETS for method in ("forward-only", "centred-rise")]
        wanted += [(method, n) for n in AISE for method in ("forward-only", *AISES)]
        fill(args, wanted, 1)
    elif args.what == "curves":
        fill(args, [(method, n) for n in CURVE for method in (*OURS, *RISES)], EVERY)
    elif args.what == "quantised":
        quantised(args)
    else:
        tables(args)
        plot(args)


if __name__ == "__main__":
    main()

"""Insertion and deletion of IBISA against RISE-4000, photograph by photograph.

    python benchmarks/faithfulness.py ASSETS WORK [--model squeezenet] [--model mobilenetv2]
        [--gradient forward-only --budget 200]

ASSETS holds `models/` and `images/`; WORK keeps RISE's maps, so that an interrupted run goes
on where it stopped. Prints one Markdown table: means, the paired difference to RISE with its 95%
interval, and the agreement of two seeds (Spearman).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from ibisa_onnx import Explainer
from ibisa_onnx.baselines import rise
from ibisa_onnx.metrics import deletion, insertion
from ibisa_onnx.model import prepare, read_image
from ibisa_onnx.model.preprocessing import unprepare
from ibisa_onnx.targets import read_output

PRESETS = {"squeezenet": "caffe", "mobilenetv2": "tf", "mobilenetv2_int8": "raw"}
Score = Callable[[np.ndarray], np.ndarray]


def explainer_of_crops(
    assets: Path, model: str, threads: int, **options: Any
) -> tuple[Explainer, Explainer]:
    """Return the explainer of photographs, and the one of pictures that already fit the model."""
    path = assets / "models" / f"{model}.onnx"
    whole = Explainer(path, preprocessing=PRESETS[model], threads=threads)
    fitting = replace(whole.preprocessing.spec, resize="none")
    return whole, Explainer(whole.model, preprocessing=fitting, **options)


@dataclass(frozen=True)
class Photograph:
    """A photograph as a model sees it: `fitted` explains the crop, which is what it sees of it."""

    number: int
    path: Path
    whole: Explainer
    fitted: Explainer

    @cached_property
    def crop(self) -> np.ndarray:
        """The part that the model sees, rounded to pixels, uint8 [H, W, 3]."""
        spec = self.whole.preprocessing.spec
        return unprepare(prepare(read_image(self.path), spec).tensor, spec)

    @cached_property
    def image(self) -> np.ndarray:
        """The same in model space, float32 [C, H, W]."""
        return prepare(self.crop, self.fitted.preprocessing.spec).tensor[0]

    @cached_property
    def score(self) -> Score:
        """The probability of the class that is predicted for it."""
        return score_of(self.fitted, self.image)


def photographs(assets: Path, whole: Explainer, fitted: Explainer) -> list[Photograph]:
    """Return all of them, in order."""
    paths = sorted((assets / "images").glob("*.JPEG"))
    return [Photograph(number, path, whole, fitted) for number, path in enumerate(paths)]


def score_of(explainer: Explainer, image: np.ndarray) -> Score:
    """Return the probability of the class predicted for an image [C, H, W], as a function."""
    model = explainer.model
    name = model.signature.outputs[0].name
    raw = model.run(image[None], [name])[name]
    output = read_output(name, raw, graph=model.proto().graph)
    index = int(output.probabilities(raw)[0].argmax())
    return lambda images: output.probabilities(model.run(images, [name])[name])[:, index]


def measure(score: Score, image: np.ndarray, saliency: np.ndarray) -> tuple[float, float]:
    """Return insertion and deletion."""
    return insertion(score, image, saliency).auc, deletion(score, image, saliency).auc


def rise_map(file: Path, score: Score, image: np.ndarray, masks: int, seed: int) -> np.ndarray:
    """Return RISE's map, kept in `file`."""
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        saliency = rise(score, image, rng=np.random.default_rng(seed), masks=masks)
        temporary = file.with_suffix(".tmp.npy")
        np.save(temporary, saliency)
        temporary.replace(file)
    return np.load(file)


def rows(args: argparse.Namespace, model: str) -> Iterator[list[float]]:
    """Yield for each photograph: IBISA's two scores, RISE's two, Spearman of two seeds."""
    options = {"gradient": args.gradient, "budget": args.budget}
    whole, fitted = explainer_of_crops(args.assets, model, args.threads, **options)
    for photo in photographs(args.assets, whole, fitted)[args.first :: args.every]:
        image, score = photo.image, photo.score
        file = args.work / f"rise-{args.masks}-{model}" / f"{photo.path.stem}.npy"
        theirs = rise_map(file, score, image, args.masks, photo.number)
        if args.only_rise:
            continue
        maps = [fitted.explain(photo.crop, seed=seed).map for seed in (0, 1)]
        agreement = spearmanr(maps[0].ravel(), maps[1].ravel()).statistic
        row = [*measure(score, image, maps[0]), *measure(score, image, theirs), agreement]
        print(model, photo.path.stem, *(f"{value:.3f}" for value in row), flush=True)
        yield row


def table_row(model: str, values: np.ndarray) -> str:
    """Return a line of the table."""
    ours, theirs = values[:, 0] - values[:, 1], values[:, 2] - values[:, 3]
    gap = ours - theirs
    half = 1.96 * gap.std(ddof=1) / np.sqrt(len(gap))
    means = values.mean(0)
    return (
        f"| {model} | {len(gap)} | {means[0]:.3f} | {means[1]:.3f} | {ours.mean():.3f} "
        f"| {means[2]:.3f} | {means[3]:.3f} | {theirs.mean():.3f} "
        f"| {gap.mean():+.3f} ± {half:.3f} | {means[4]:.2f} |"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("assets", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--model", action="append", choices=PRESETS)
    parser.add_argument("--masks", type=int, default=4000)
    parser.add_argument("--gradient", default="auto")
    parser.add_argument("--budget", type=int, help="forward passes, when forward-only")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="number of the first photograph")
    parser.add_argument("--every", type=int, default=1, help="take every n-th photograph")
    parser.add_argument("--only-rise", action="store_true", help="compute RISE's maps, no more")
    args = parser.parse_args()
    lines = [
        "| model | photographs | IBISA insertion ↑ | deletion ↓ | difference ↑ "
        "| RISE insertion | deletion | difference | paired gap | seeds |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for model in args.model or ("squeezenet", "mobilenetv2"):
        values = np.array(list(rows(args, model)))
        if len(values):
            lines.append(table_row(model, values))
    print("\n".join(lines))


if __name__ == "__main__":
    main()

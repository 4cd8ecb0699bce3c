"""What speaks against an answer, tried: does hiding it make the answer more likely?

    python benchmarks/signed.py ASSETS [--every 3] [--gradient exact] [--gradient forward-only]

Every answer of a photograph that has 1% or more, of the three likeliest, is explained. Of the map
and of what speaks against, the pixels above a fifth of the map's largest value are hidden by the
mean colour, and for comparison as many of the same shape elsewhere: the region moved by half of the
picture down, across, and both. Regions of less than half a percent are left out. Prints one
Markdown table of the change of log p.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from photographs import explainer_of_crops, photographs

from ibisa_onnx import Explainer

MODELS = ("squeezenet", "mobilenetv2")
_SHOWN, _LEAST = 0.2, 0.005
_MOVES = ((0.5, 0), (0, 0.5), (0.5, 0.5))


def changes(explainer: Explainer, image: np.ndarray, target: int, region: np.ndarray) -> np.ndarray:
    """Return the change of log p where a region is hidden, and in the mean where it is moved."""
    problem = explainer.problem(image, target)
    moved = [
        np.roll(region, [round(s * n) for s, n in zip(move, region.shape, strict=True)], (0, 1))
        for move in _MOVES
    ]
    images = [np.where(each, problem.blank, problem.image) for each in (region, *moved)]
    after = np.log(problem.score(np.concatenate(images).astype(np.float32)))
    after -= np.log(problem.row.probability)
    return np.array([after[0], after[1:].mean()])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("assets", type=Path)
    parser.add_argument("--every", type=int, default=3, help="photographs; 1: all")
    parser.add_argument("--gradient", action="append", help="default: exact and forward-only")
    args = parser.parse_args()
    print("| model | gradient | hidden | answers | area | log p | raised | moved: log p |")
    print("|---|---|---|---|---|---|---|---|")
    for model in MODELS:
        for gradient in args.gradient or ("exact", "forward-only"):
            found: dict[str, list[tuple[float, ...]]] = {"for": [], "against": []}
            whole, fitted = explainer_of_crops(args.assets, model, 1, gradient=gradient)
            pictures = photographs(args.assets, whole, fitted)[:: args.every]
            answers = 0
            for photo in pictures:
                likely = [p.index for p in fitted.predict(photo.crop, 3) if p.probability >= 0.01]
                for each in fitted.explain_all(photo.crop, likely):
                    assert each.against is not None
                    assert each.target.index is not None
                    answers += 1
                    for name, map in (("for", each.map), ("against", each.against)):
                        region = map > _SHOWN * each.map.max()
                        if region.mean() < _LEAST:
                            continue
                        change = changes(fitted, photo.crop, each.target.index, region)
                        found[name].append((region.mean(), *change))
            for name, rows in found.items():
                area, here, elsewhere = np.array(rows).T
                print(
                    f"| {model} | {gradient} | {name} | {len(rows)} of {answers} "
                    f"| {area.mean():.1%} | {here.mean():+.2f} | {(here > 0).mean():.0%} "
                    f"| {elsewhere.mean():+.2f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()

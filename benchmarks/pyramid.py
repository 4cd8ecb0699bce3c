"""What class activation at a feature pyramid brings to maps of boxes.

    python benchmarks/pyramid.py FOLDER --assets ASSETS [--boxes 60]
        [--write docs/explanation/research-notes.md]

FOLDER is `field.py`'s, with the detectors' files. Detections of at least 0.5% of the picture in
windows of photographs of crowds are explained by the default settings, and without class activation
(`activation=0`). Of each: the share of maps whose *peak* is in the box, the *energy* in the box,
and what the model says where pixels come and go in the map's order, so many as a quarter, half,
once, twice and four times the box has: the mean share of the box's score, *inserted* (the higher
the better) and *deleted* (the lower the better), where the others are blurred, and where they are
the picture's mean. Prints a Markdown table; `--write` puts it into a page between the marks
`<!-- pyramid -->` and `<!-- /pyramid -->`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from field_set.boxes import large_boxes, windows
from field_set.cases import CASES
from field_set.measures import inside
from pages import put

import ibisa_onnx as ibisa
from ibisa_onnx.methods.problem import Problem
from ibisa_onnx.metrics.localisation import ENERGY

Floats = npt.NDArray[np.float32]

DETECTORS = {"nudenet": (2, 3), "centerface": (2,), "face_rfb320": (1, 2, 3)}
"""Cases of `field.py`, and into how many parts the photographs are cut along a side."""

AREAS = (0.25, 0.5, 1, 2, 4)  # of the box
BLUR = 10 / 224  # of the input's longer side


def opened(name: str, folder: Path, activation: float) -> ibisa.Explainer:
    """Open a case's model."""
    case = CASES[name]
    options = replace(ibisa.Options(), activation=activation)
    return ibisa.Explainer(folder / case.model, options=options, **case.settings)


def curves(problem: Problem, saliency: Floats, area: float) -> list[float]:
    """Return the box's score, inserted and deleted, over the blur and over the mean."""
    (image,) = problem.image
    order = np.argsort(-saliency, axis=None, kind="stable")
    rank = np.empty(order.size, np.intp)
    rank[order] = np.arange(order.size)
    first = [rank.reshape(saliency.shape) < share * area for share in AREAS]
    sigma = BLUR * max(saliency.shape)
    blurred = np.stack([cv2.GaussianBlur(plane, (0, 0), sigma) for plane in image])
    mean = np.broadcast_to(image.mean((1, 2), keepdims=True), image.shape)
    shown = [
        np.where(seen, image, hidden)
        for hidden in (blurred, mean)
        for seen in (*first, *(~each for each in first))
    ]
    scores = [float(problem.score(each[None].astype(np.float32))[0]) for each in shown]
    shares = np.clip(np.array(scores) / problem.row.probability, 0, 1)
    return [float(each) for each in shares.reshape(4, -1).mean(1)]


def measured(explainer: ibisa.Explainer, problem: Problem) -> list[float]:
    """Return peak, energy and the four means of one detection."""
    saliency = explainer.map_of(problem)
    height, width = saliency.shape
    left, top, right, bottom = problem.row.objective.location or (0, 0, 1, 1)
    box = (left * width, top * height, right * width, bottom * height)
    mask = inside(box, saliency.shape)
    peak = mask[np.unravel_index(saliency.argmax(), saliency.shape)]
    area = (box[2] - box[0]) * (box[3] - box[1])
    return [float(peak), ENERGY(saliency, mask), *curves(problem, saliency, area)]


def rows(name: str, folder: Path, assets: Path, most: int) -> Iterator[str]:
    """Yield a detector's two rows of the table."""
    finder = opened(name, folder, 1)
    asked: list[tuple[Any, int]] = [
        (image, number)
        for image in windows(assets, DETECTORS[name])
        for number in large_boxes(finder, image)
    ]
    chosen = np.unique(np.linspace(0, len(asked) - 1, min(most, len(asked))).round().astype(int))
    for activation in (0.0, 1.0):
        explainer = opened(name, folder, activation)
        found = [
            measured(explainer, explainer.problem(image, ibisa.BoxTarget(number)))
            for image, number in (asked[place] for place in chosen)
        ]
        peak, *rest = np.mean(found, 0)
        cells = (f"{peak:.0%}", *(f"{each:.2f}" for each in rest))
        told = "with" if activation else "without"
        yield f"| {name} | {len(found)} | {told} | {' | '.join(cells)} |"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print or write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--assets", type=Path, required=True)
    parser.add_argument("--boxes", type=int, default=60)
    parser.add_argument("--write", type=Path)
    args = parser.parse_args(arguments)
    lines = [
        "| detector | boxes | class activation | peak in the box | energy | inserted (blur) | "
        "deleted (blur) | inserted (mean) | deleted (mean) |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name in DETECTORS:
        lines += rows(name, args.folder, args.assets, args.boxes)
    table = "\n".join(lines)
    print(table)
    if args.write:
        put(args.write, "pyramid", table)


if __name__ == "__main__":
    main()

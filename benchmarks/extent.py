"""What a target that covers little of the picture should pay: planted squares of 0.2% to 50%.

    python benchmarks/extent.py ASSETS [--write docs/explanation/research-notes.md]

The score of a planted model is a matched filter: the sigmoid of how much of a square of a
photograph is seen, where its mean colour hides the rest, so that all of the square is needed and
nothing else. Six photographs each; the square lies anywhere. Beta is multiplied by a constant, or
by a power of 8% over the square's share of the picture, from 1 to a limit. Of each map: *energy*,
the share of its sum inside the square; *largest*, its largest value, by which it is told whether
it is flat; *found*, the share of the square among as many highest pixels. Prints a Markdown table;
`--write` puts it into a page between the marks `<!-- extent -->` and `<!-- /extent -->`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from pages import put

from ibisa_onnx import Explainer, Options
from ibisa_onnx.io.images import read_image
from ibisa_onnx.methods.ibisa.optimizer import price

SIDE = 224
AREAS = (0.002, 0.005, 0.02, 0.08, 0.2, 0.5)
PHOTOGRAPHS = 6
GAIN = 12.0  # of the sigmoid
MOST = 0.2  # of what a pixel counts, so that few bright ones are not all of it
USUAL = 0.08

PRICES: Mapping[str, Callable[[float], float]] = {
    "1": lambda area: 1.0,
    "4": lambda area: 4.0,
    "16": lambda area: 16.0,
    "8% over the share, 1 to 16": lambda area: float(np.clip(USUAL / area, 1, 16)),
    "its root, 1 to 4": price,
}


@dataclass(frozen=True)
class Case:
    """A photograph, the square in it, and the explainer of the planted model."""

    area: float
    image: npt.NDArray[np.uint8]
    square: npt.NDArray[np.bool_]
    model: bytes


def planted(weights: npt.NDArray[np.float32], colour: npt.NDArray[np.float32]) -> bytes:
    """Return a model [n, 3, H, W] to [n, 1]: sigmoid(gain (sum of w (x - colour) - 1/2))."""
    constants = {
        "colour": colour,
        "weights": weights,
        "axes": np.array([1, 2, 3]),
        "half": np.float32(0.5),
        "gain": np.float32(GAIN),
        "row": np.array([-1, 1]),
    }
    nodes = [
        helper.make_node("Sub", ["image", "colour"], ["apart"]),
        helper.make_node("Mul", ["apart", "weights"], ["each"]),
        helper.make_node("ReduceSum", ["each", "axes"], ["sum"], keepdims=0),
        helper.make_node("Sub", ["sum", "half"], ["centred"]),
        helper.make_node("Mul", ["centred", "gain"], ["flat"]),
        helper.make_node("Reshape", ["flat", "row"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["seen"]),
    ]
    graph = helper.make_graph(
        nodes,
        "planted",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("seen", TensorProto.FLOAT, ["n", 1])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 13)]
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    return model.SerializeToString()


def cases(assets: Path) -> Iterator[Case]:
    """Yield every square on every photograph."""
    rng = np.random.default_rng(0)
    files = sorted((assets / "images").glob("*.JPEG"))[::9][:PHOTOGRAPHS]
    for area in AREAS:
        for file in files:
            image = cv2.resize(read_image(file), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
            pixels = (image.astype(np.float32) / 255).transpose(2, 0, 1)
            side = round(np.sqrt(area) * SIDE)
            top, left = rng.integers(0, SIDE - side + 1, 2)
            square = np.zeros((SIDE, SIDE), bool)
            square[top : top + side, left : left + side] = True
            colour = pixels.mean((1, 2), keepdims=True)
            apart = (pixels - colour) * square
            weights = np.clip(apart, -MOST, MOST)
            weights /= (weights * apart).sum()
            yield Case(area, image, square, planted(weights[None], colour[None]))


def measure(case: Case, factor: float) -> tuple[float, float, float]:
    """Return energy, largest value and share found of a map at that price."""
    options = Options(baseline="mean")
    explainer = Explainer(
        case.model,
        preprocessing="unit",
        overrides={"resize": "none"},
        options=replace(options, beta=factor * options.beta),
        cache=False,
    )
    map = explainer.explain(case.image, 1).map
    highest = np.argsort(-map.ravel(), kind="stable")[: case.square.sum()]
    found = case.square.ravel()[highest].mean()
    return float(map[case.square].sum() / map.sum()), float(map.max()), float(found)


def table(assets: Path) -> str:
    """Return the means by area and price."""
    drawn = list(cases(assets))
    lines = [
        "| beta is multiplied by | " + " | ".join(f"{100 * area:g}%" for area in AREAS) + " |",
        "|---" * (1 + len(AREAS)) + "|",
    ]
    for name, factor in PRICES.items():
        cells = []
        for area in AREAS:
            found = [measure(case, factor(area)) for case in drawn if case.area == area]
            energy, largest, share = np.mean(found, 0)
            cells.append(f"{energy:.2f}, {largest:.2f}, {share:.2f}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table, and put it into a page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("assets", type=Path)
    parser.add_argument("--write", type=Path)
    given = parser.parse_args(argv)
    found = table(given.assets)
    if given.write:
        put(given.write, "extent", found)
    else:
        print(found)


if __name__ == "__main__":
    main()

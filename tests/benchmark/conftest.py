"""Models that look at squares, one of which counts its calls, maps of known worth, and pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import ibisa_onnx as ibisa
from ibisa_onnx.benchmark.runner import Benchmark, Entry
from ibisa_onnx.benchmark.store import Store
from ibisa_onnx.errors import GradientError
from ibisa_onnx.methods.base import AttributionResult, RowByRow, no_gradient
from ibisa_onnx.metrics import DELETION, INSERTION
from ibisa_onnx.statements import Completion

SIDE = 16
SQUARE = np.zeros((SIDE, SIDE), bool)
SQUARE[4:8, 6:11] = True  # 20 of 256 pixels
MAPS = {
    "perfect": SQUARE.astype(np.float32),
    "inverse": 1 - SQUARE.astype(np.float32),
}


class Model:
    """Class 0 has the square's mean for a probability, in model space; blank is 0, white is 1."""

    def __init__(self) -> None:
        self.images = 0

    def __call__(self, images: np.ndarray) -> np.ndarray:
        self.images += len(images)
        share = images[:, 0, SQUARE].mean(1)
        return np.stack([share, 1 - share], 1)


@dataclass(frozen=True)
class Planted(RowByRow):
    """A method whose map is known; it asks `passes` times.

    `refuses` the model, or fails where the picture's pixel `fails_at` in the first row is black.
    """

    name: str = "perfect"
    passes: int = 3
    refuses: bool = False
    fails_at: int | None = None

    @property
    def settings(self) -> dict[str, Any]:
        return asdict(self)

    def prepare(self, model: Any, objective: Any, preprocessing: Any) -> Planted:
        if self.refuses:
            raise GradientError(f"{self.name}: refuses this model")
        return self

    def run_one(self, problem: Any, rng: Any, control: Any) -> Iterator[AttributionResult]:
        for done in range(self.passes):
            problem.score(problem.image)
            control.progress(done + 1, self.passes)
        if self.fails_at is not None and problem.image[0, 0, 0, self.fails_at] < 0:
            raise GradientError("no gradient here")
        done, certificate = Completion(1, 1, "steps"), no_gradient("planted")
        yield AttributionResult(MAPS[self.name], (SIDE, SIDE), done, certificate)


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
def planted() -> type[Planted]:
    return Planted


@pytest.fixture
def open_explainer(model: Model) -> Callable[..., ibisa.Explainer]:
    """Opens the model, afresh as a new process would."""

    def open_(**options: Any) -> ibisa.Explainer:
        spec = ibisa.InputSpec((None, 3, SIDE, SIDE))
        return ibisa.Explainer(
            ibisa.FunctionModel(model, spec, identity="planted"),
            preprocessing="tf",
            overrides=ibisa.Overrides(resize="stretch"),
            activation="probability",
            **options,
        )

    return open_


@pytest.fixture
def picture(tmp_path: Path) -> Callable[..., Path]:
    """Writes a white picture with one black pixel at the border, by which pictures differ."""

    def write(name: str = "a.png", place: int = 0, size: tuple[int, int] = (SIDE, SIDE)) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.full((*size, 3), 255, np.uint8)
        pixels[0, place] = 0
        assert cv2.imwrite(str(path), pixels)
        return path

    return write


@pytest.fixture
def benchmark(open_explainer: Any, tmp_path: Path) -> Callable[..., Benchmark]:
    """Makes a benchmark of two planted methods, by an explainer and a store of its own."""

    def make(images: list[Path], names: tuple[str, ...] = tuple(MAPS), **options: Any) -> Benchmark:
        entries = options.pop("entries", [Entry(name, Planted(name)) for name in names])
        metrics = options.pop("metrics", (INSERTION, DELETION))
        store = Store(tmp_path / "out" / "scores.csv", [metric.name for metric in metrics])
        return Benchmark(
            options.pop("explainer", None) or open_explainer(),
            entries,
            images,
            metrics,
            store,
            **options,
        )

    return make


def planted_detector() -> bytes:
    """Boxes [n, 16, 4] and scores [n, 3, 16]: each cell of 8 pixels, and how red, green, blue.

    Red is the mean of red less green less blue, and so on: grey is none of them. The picture has 32
    pixels a side.
    """
    rows, columns = np.mgrid[:4, :4].reshape(2, -1) * 8
    corners = np.stack([columns, rows, columns + 8, rows + 8], 1)[None].astype(np.float32)
    kernel = np.broadcast_to((2 * np.eye(3) - 1)[..., None, None] / 64, (3, 3, 8, 8))
    constants = {
        "kernel": kernel.astype(np.float32),
        "flat": np.array([0, 3, -1]),
        "first": np.array([0]),
        "zero": np.float32(0),
        "corners": corners,
    }
    nodes = [
        helper.make_node("Conv", ["image", "kernel"], ["m"], strides=[8, 8]),
        helper.make_node("Reshape", ["m", "flat"], ["means"]),
        helper.make_node("Relu", ["means"], ["scores"]),
        helper.make_node("Gather", ["means", "first"], ["one"], axis=1),
        helper.make_node("Mul", ["one", "zero"], ["zeros"]),
        helper.make_node("Transpose", ["zeros"], ["column"], perm=[0, 2, 1]),
        helper.make_node("Add", ["column", "corners"], ["boxes"]),
    ]
    shapes = {"image": ["n", 3, 32, 32], "boxes": ["n", 16, 4], "scores": ["n", 3, 16]}
    image, *outputs = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in shapes.items()
    )
    tensors = [numpy_helper.from_array(each, name) for name, each in constants.items()]
    graph = helper.make_graph(nodes, "detector", [image], outputs, tensors)
    opsets = [helper.make_opsetid("", 13)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()


@pytest.fixture
def detector() -> ibisa.Explainer:
    return ibisa.Explainer(
        planted_detector(), preprocessing="unit", labels=("red", "green", "blue"), threads=1
    )


@pytest.fixture
def squares(tmp_path: Path) -> Callable[..., Path]:
    """Writes a black picture with a square in some cells: (row, column, channel) of each."""

    def write(name: str, *cells: tuple[int, int, int], level: int = 230) -> Path:
        pixels = np.zeros((32, 32, 3), np.uint8)
        for row, column, channel in cells:
            pixels[8 * row : 8 * row + 8, 8 * column : 8 * column + 8, channel] = level
        assert cv2.imwrite(str(tmp_path / name), pixels[..., ::-1])
        return tmp_path / name

    return write

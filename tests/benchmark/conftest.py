"""A model that looks at a square and counts its calls, maps whose worth is known, and pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import ibisa_onnx as ibisa
from ibisa_onnx.benchmark.runner import Benchmark, Entry
from ibisa_onnx.benchmark.store import Store
from ibisa_onnx.errors import GradientError
from ibisa_onnx.explanation import Completion
from ibisa_onnx.methods.base import AttributionResult, RowByRow, no_gradient
from ibisa_onnx.metrics import DELETION, INSERTION

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

"""A model that looks at a square and counts its calls, maps whose worth is known, and pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import pytest

import ibisa_onnx as ibisa
from ibisa_onnx.benchmark.runner import Contest, Entry
from ibisa_onnx.benchmark.store import Store
from ibisa_onnx.errors import GradientError
from ibisa_onnx.explanation import Completion
from ibisa_onnx.gradients.selection import GradientPath
from ibisa_onnx.methods.ibisa.method import Found
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
class Planted:
    """A method whose map is known; it asks `passes` times.

    `refuses` the model, or fails where the picture's pixel `fails_at` in the first row is black.
    """

    name: str = "perfect"
    passes: int = 3
    refuses: bool = False
    fails_at: int | None = None
    path: ClassVar[GradientPath] = GradientPath("none", "planted", None)

    @property
    def settings(self) -> dict[str, Any]:
        return asdict(self)

    def open(self, explainer: Any, output: Any) -> Planted:
        if self.refuses:
            raise GradientError(f"{self.name}: refuses this model")
        return self

    def __call__(self, case: Any, rng: Any, progress: Any, limit: Any) -> Iterator[Found]:
        for done in range(self.passes):
            case.probability(case.bottleneck.image)
            progress(done + 1, self.passes)
        if self.fails_at is not None and case.bottleneck.image[0, 0, 0, self.fails_at] < 0:
            raise GradientError("no gradient here")
        yield Found(MAPS[self.name], (SIDE, SIDE), Completion(1, 1, "steps"))


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
        return ibisa.Explainer(
            model,
            ibisa.InputSpec((None, 3, SIDE, SIDE)),
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
def contest(open_explainer: Any, tmp_path: Path) -> Callable[..., Contest]:
    """Makes a contest of two planted methods, by an explainer and a store of its own."""

    def make(images: list[Path], names: tuple[str, ...] = tuple(MAPS), **options: Any) -> Contest:
        entries = options.pop("entries", [Entry(name, Planted(name)) for name in names])
        metrics = options.pop("metrics", (INSERTION, DELETION))
        store = Store(tmp_path / "out" / "scores.csv", [metric.name for metric in metrics])
        return Contest(
            options.pop("explainer", None) or open_explainer(),
            entries,
            images,
            metrics,
            store,
            **options,
        )

    return make

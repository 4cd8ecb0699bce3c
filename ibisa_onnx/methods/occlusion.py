"""Occlusion: how much the probability falls as a window moves over the picture.

Zeiler and Fergus, arXiv 1311.2901, section 4.2.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np

from ibisa_onnx.errors import OptionError
from ibisa_onnx.explainer import Explainer
from ibisa_onnx.gradients.selection import GradientPath
from ibisa_onnx.methods.budget import Progress, Queries
from ibisa_onnx.methods.ibisa.method import Found
from ibisa_onnx.methods.problem import Case
from ibisa_onnx.methods.scaling import above_zero
from ibisa_onnx.methods.settings import is_whole
from ibisa_onnx.methods.stopping import Limit
from ibisa_onnx.preprocessing.spec import mean_colour
from ibisa_onnx.targets.classification import ClassOutput

_BATCH = 8


@dataclass(frozen=True)
class Occlusion:
    """A window of the mean colour, moved in equal steps from edge to edge.

    A pixel's saliency is the mean fall of the probability over the windows that covered it.

    Attributes
    ----------
    window
        Its side, as a fraction of the image's shorter side.
    places
        Where it is put along each axis: `places` squared forward passes.
    """

    window: float = 0.25
    places: int = 14
    name: ClassVar[str] = "occlusion"

    def __post_init__(self) -> None:
        """Raise `OptionError` where a value is out of its range."""
        if not 0 < self.window < 1:
            raise OptionError(f"occlusion's window is {self.window!r}; give a fraction in 0..1")
        if not is_whole(self.places, 2):
            raise OptionError(f"occlusion's places are {self.places!r}; give 2 or more")

    @property
    def settings(self) -> dict[str, Any]:
        """The settings by name."""
        return asdict(self)

    def open(self, explainer: Explainer, output: ClassOutput) -> OpenedOcclusion:
        """Take the mean colour of the model's preprocessing."""
        return OpenedOcclusion(self, mean_colour(explainer.preprocessing.spec))


@dataclass(frozen=True)
class OpenedOcclusion:
    """Occlusion for one model."""

    method: Occlusion
    blank: np.ndarray[Any, np.dtype[np.float32]]
    path: ClassVar[GradientPath] = GradientPath("none", "occlusion asks forward passes alone", None)

    def __call__(
        self, case: Case, rng: np.random.Generator, progress: Progress | None, limit: Limit
    ) -> Iterator[Found]:
        """Put the window everywhere, row by row."""
        queries = Queries(case, progress, limit, self.method.places**2)
        case.see_whether_images_mix()
        image, size = case.bottleneck.image, case.bottleneck.size
        fall, covered = np.zeros(size), np.zeros(size)
        windows = list(self._windows(size))
        for begin in range(0, len(windows), _BATCH):
            block = windows[begin : begin + _BATCH]
            images = np.repeat(image, len(block), axis=0)
            for each, window in zip(images, block, strict=True):
                each[:, *window] = self.blank
            for window, probability in zip(block, queries(images), strict=True):
                fall[window] += case.answer - probability
                covered[window] += 1
            if queries.done < queries.planned and queries.over(len(block)):
                break
        saliency = fall / np.maximum(covered, 1)
        yield Found(above_zero(saliency), size, queries.completion)

    def _windows(self, size: tuple[int, int]) -> Iterator[tuple[slice, slice]]:
        """Yield the windows' rows and columns."""
        side = max(1, round(self.method.window * min(size)))
        starts = [
            np.rint(np.linspace(0, length - side, self.method.places)).astype(int)
            for length in size
        ]
        for top in starts[0]:
            for left in starts[1]:
                yield slice(top, top + side), slice(left, left + side)

"""Occlusion: the drop in probability as a window moves over the image.

Zeiler and Fergus, arXiv 1311.2901, section 4.2.
"""

from __future__ import annotations

import numbers
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np

from ibisa_onnx.errors import OptionError
from ibisa_onnx.methods.base import AttributionResult, RowByRow, no_gradient
from ibisa_onnx.methods.budget import Queries
from ibisa_onnx.methods.problem import Problem
from ibisa_onnx.methods.scaling import negative_part_scaled, positive_part_scaled
from ibisa_onnx.methods.settings import is_whole
from ibisa_onnx.methods.stopping import Control
from ibisa_onnx.models.base import ImageModel
from ibisa_onnx.preprocessing.spec import Preprocessing
from ibisa_onnx.targets.base import Objective

_BATCH = 8


@dataclass(frozen=True)
class Occlusion:
    """Occlusion by a window of the mean colour, moved in equal steps from edge to edge.

    A pixel's saliency is the mean drop in probability over the windows that covered it (Zeiler and
    Fergus, arXiv 1311.2901, section 4.2).

    Attributes
    ----------
    window
        Side of the window, as a fraction of the image's shorter side.
    places
        Positions along each axis, 2 or more; costs `places` squared forward passes.

    Raises
    ------
    OptionError
        A value is out of range.
    """

    window: float = 0.25
    places: int = 14
    name: ClassVar[str] = "occlusion"

    def __post_init__(self) -> None:
        """Raise `OptionError` if a value is out of range."""
        if not isinstance(self.window, numbers.Real) or not 0 < self.window < 1:
            raise OptionError(f"occlusion's window is {self.window!r}; pass a fraction in 0..1")
        if not is_whole(self.places, 2):
            raise OptionError(f"occlusion's places is {self.places!r}; pass 2 or more")

    @property
    def settings(self) -> dict[str, Any]:
        """Settings by name."""
        return asdict(self)

    def prepare(
        self, model: ImageModel, objective: Objective, preprocessing: Preprocessing
    ) -> PreparedOcclusion:
        """Return the prepared method; the model needs no preparation."""
        return PreparedOcclusion(self)


@dataclass(frozen=True)
class PreparedOcclusion(RowByRow):
    """Occlusion for one model."""

    method: Occlusion

    def run_one(
        self, problem: Problem, rng: np.random.Generator, control: Control
    ) -> Iterator[AttributionResult]:
        """Move the window over all positions, row by row."""
        queries = Queries(problem, control, self.method.places**2)
        problem.check_batch_independence()
        image, size, answer = problem.image, problem.size, problem.row.probability
        fall, covered = np.zeros(size), np.zeros(size)
        windows = list(self._windows(size))
        for begin in range(0, len(windows), _BATCH):
            block = windows[begin : begin + _BATCH]
            images = np.repeat(image, len(block), axis=0)
            for each, window in zip(images, block, strict=True):
                each[:, *window] = problem.blank
            for window, probability in zip(block, queries(images), strict=True):
                fall[window] += answer - probability
                covered[window] += 1
            if queries.done < queries.planned and queries.over(len(block)):
                break
        saliency = fall / np.maximum(covered, 1)
        certificate = no_gradient("occlusion needs forward passes only")
        yield AttributionResult(
            positive_part_scaled(saliency),
            size,
            queries.completion,
            certificate,
            against=negative_part_scaled(saliency),
        )

    def _windows(self, size: tuple[int, int]) -> Iterator[tuple[slice, slice]]:
        """Yield the rows and columns of each window."""
        side = max(1, round(self.method.window * min(size)))
        starts = [
            np.rint(np.linspace(0, length - side, self.method.places)).astype(int)
            for length in size
        ]
        for top in starts[0]:
            for left in starts[1]:
                yield slice(top, top + side), slice(left, left + side)

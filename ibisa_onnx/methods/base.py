"""Interface of attribution methods, and their results.

Each method is a file of this package. The rest is the same for all methods: preparing the image,
binding the target, counting passes, and mapping the result back to the image.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from ibisa_onnx.gradients.masked_images import Floats, enlarge
from ibisa_onnx.methods.problem import Problem
from ibisa_onnx.methods.stopping import Control
from ibisa_onnx.models.base import ImageModel
from ibisa_onnx.models.passes import PassCount
from ibisa_onnx.preprocessing.spec import Preprocessing
from ibisa_onnx.statements import Certificate, Completion, Sufficiency
from ibisa_onnx.targets.base import Objective

NO_GRADIENT = "none"
_NO_PASSES = PassCount()


@dataclass(frozen=True, eq=False)
class AttributionResult:
    """State of one explanation, finished or intermediate.

    Attributes
    ----------
    cells
        float32 [r, c] in 0..1, on a grid of cells: keep probability or another saliency.
    size
        Height and width of the model input.
    completion
        How much of the planned work was done.
    certificate
        Source of the gradients, and how closely it reproduces the deployed model.
    sufficiency
        Result of checking the finished map; None if it was not checked (yet).
    against
        float32 [r, c] in 0..1: evidence against the prediction, on the scale of `cells`; None for
        methods without signed maps.
    effect, deviation
        float64 [r, c]: effect of showing each cell on the probability, and its standard deviation;
        None if unknown.
    timings
        Seconds per stage, for all rows that were explained together; None if not finished.
    passes
        Passes of a finished result, including its part of what rows share.
    warnings
        Warnings about how the result was obtained.
    baseline
        Name of the baseline, or several separated by commas; None for methods that do not name it.
    blind
        Whether the prediction was found not to depend on the image.
    answer
        Value of the calibrated objective for the unmasked image; None if it was not calibrated.
    """

    cells: Floats
    size: tuple[int, int]
    completion: Completion
    certificate: Certificate
    sufficiency: Sufficiency | None = None
    against: Floats | None = None
    effect: npt.NDArray[np.float64] | None = None
    deviation: npt.NDArray[np.float64] | None = None
    timings: Mapping[str, float] | None = None
    passes: PassCount = _NO_PASSES
    warnings: tuple[str, ...] = ()
    baseline: str | None = None
    blind: bool = False
    answer: float | None = None

    @cached_property
    def map(self) -> Floats:
        """Map at the resolution of the model input, float32 [h, w]."""
        return _enlarged(self.cells, self.size)

    @property
    def map_against(self) -> Floats | None:
        """`against` at the resolution of the model input, float32 [h, w]."""
        return None if self.against is None else _enlarged(self.against, self.size)

    def per_pixel(self, of_cells: npt.NDArray[np.float64]) -> Floats:
        """Distribute values of cells over their pixels, float32 [h, w]."""
        share = self.cells.size / (self.size[0] * self.size[1])  # cells per pixel
        return _enlarged((share * of_cells).astype(np.float32), self.size)


def _enlarged(cells: Floats, size: tuple[int, int]) -> Floats:
    return np.asarray(enlarge(cells[None, None], size)[0, 0])


Results = dict[int, AttributionResult]
"""Results by row of the problem."""


class PreparedMethod(Protocol):
    """Method prepared for one model and one family of objectives."""

    def run(
        self, problem: Problem, rng: np.random.Generator, control: Control
    ) -> Iterator[Results]:
        """Explain each row of a problem, yielding intermediate results.

        The last result of each row is finished: it has `timings`. Equal generators yield equal maps
        of a row, whichever rows are explained with it. Checks `control` after each unit of work,
        and stops early if it says so.
        """


@runtime_checkable
class Method(Protocol):
    """Attribution method with its settings.

    Protocol of all methods. Methods must be hashable: they are prepared once per model and family
    of objectives.
    """

    @property
    def name(self) -> str:
        """Name of the method."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """Settings, as recorded with an explanation."""

    def prepare(
        self, model: ImageModel, objective: Objective, preprocessing: Preprocessing
    ) -> PreparedMethod:
        """Prepare the method for a model and all objectives of one family.

        Parameters
        ----------
        model
            The model.
        objective
            Any objective of the family.
        preprocessing
            Preprocessing of images, for methods that use further images.

        Returns
        -------
        PreparedMethod
            Explains problems with this model and family.

        Raises
        ------
        IbisaError
            The method cannot explain this model; the message says why.
        """


class RowByRow(ABC):
    """Prepared method that explains the rows of a problem one after the other."""

    def run(
        self, problem: Problem, rng: np.random.Generator, control: Control
    ) -> Iterator[Results]:
        """Explain each row of a problem."""
        return one_by_one(problem, rng, control, self.run_one)

    @abstractmethod
    def run_one(
        self, problem: Problem, rng: np.random.Generator, control: Control
    ) -> Iterator[AttributionResult]:
        """Explain a problem of one row, yielding intermediate results and finally the result."""


RunOne = Callable[[Problem, np.random.Generator, Control], Iterator[AttributionResult]]
"""Explains the only row of a problem."""


def one_by_one(
    problem: Problem,
    rng: np.random.Generator,
    control: Control,
    run: RunOne,
) -> Iterator[Results]:
    """Explain the rows of a problem one after the other, each within its part of the time."""
    count = len(problem)
    for row in range(count):
        one = problem.take([row])
        own = control if count == 1 else control.share(count - row, first=row == 0)
        own.lap("open")
        last = None
        for last in run(one, deepcopy(rng), own):
            yield {row: last}
        own.lap("optimise")
        if last is not None:
            yield {row: replace(last, timings=own.finish(), passes=one.spent()[0])}


def no_gradient(reason: str) -> Certificate:
    """Return the certificate of a method that needs no gradient."""
    return Certificate(NO_GRADIENT, reason, None, 0.0, True)

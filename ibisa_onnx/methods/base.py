"""What a way to make maps must offer: the protocol of methods, and what they find.

Each method is a file of this package. Whatever makes the map, the picture is prepared, the target
bound, the passes counted and the map brought back to the picture in the same way.
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

from ibisa_onnx.explanation import Certificate, Completion, Sufficiency
from ibisa_onnx.gradients.masked_images import Floats, enlarge
from ibisa_onnx.methods.problem import Problem
from ibisa_onnx.methods.stopping import Control
from ibisa_onnx.models.base import ImageModel
from ibisa_onnx.models.passes import PassCount
from ibisa_onnx.preprocessing.spec import Preprocessing
from ibisa_onnx.targets.base import Objective

NO_GRADIENT = "none"
_NO_PASSES = PassCount()


@dataclass(frozen=True, eq=False)
class AttributionResult:
    """What is known of one answer after a round of work.

    Attributes
    ----------
    cells
        float32 [r, c] in 0..1, of a grid of cells: the keep-probability, or another saliency.
    size
        Height and width of the model's input.
    completion
        How much of the work was done by then.
    certificate
        Where the gradients come from, and how far that is from the deployed model.
    sufficiency
        What the check of the finished map told; None where there was none, or not yet.
    against
        float32 [r, c] in 0..1: what speaks against the answer, on the scale of `cells`; None of
        methods whose maps have no sign.
    effect, deviation
        float64 [r, c]: what showing each cell adds to the probability, and the standard deviation
        of that; None where it is not known.
    timings
        Seconds by stage, of all rows that were worked on together; None: it is not finished.
    passes
        What a finished result took: of what rows share, this one's share.
    warnings
        What there is to know of the way it was obtained.
    baseline
        Name of what was seen where the picture was masked, several with commas; None: of a method
        that does not say.
    blind
        Whether the answer was found not to depend on the picture.
    answer
        What the objective is for the untouched picture, where the method has calibrated it; None:
        as it was.
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
        """The value of each pixel, float32 [h, w]."""
        return _enlarged(self.cells, self.size)

    @property
    def map_against(self) -> Floats | None:
        """`against` at each pixel, float32 [h, w]."""
        return None if self.against is None else _enlarged(self.against, self.size)

    def per_pixel(self, of_cells: npt.NDArray[np.float64]) -> Floats:
        """Share what belongs to cells among their pixels, float32 [h, w]."""
        share = self.cells.size / (self.size[0] * self.size[1])  # cells a pixel
        return _enlarged((share * of_cells).astype(np.float32), self.size)


def _enlarged(cells: Floats, size: tuple[int, int]) -> Floats:
    return np.asarray(enlarge(cells[None, None], size)[0, 0])


Results = dict[int, AttributionResult]
"""What is known of each row of a problem that was worked on."""


class PreparedMethod(Protocol):
    """A method, prepared for one model and one family of objectives."""

    def run(
        self, problem: Problem, rng: np.random.Generator, control: Control
    ) -> Iterator[Results]:
        """Make the map of each row of a problem, round by round.

        The last result of each row is finished: it has `timings`. The same generator makes the same
        map of a row, whichever rows are beside it. It is asked after each piece of work whether
        there is time for more.
        """


@runtime_checkable
class Method(Protocol):
    """A way to make maps, with its settings; hashable, so that it is prepared once."""

    @property
    def name(self) -> str:
        """What it is called."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """Its settings, for the record."""

    def prepare(
        self, model: ImageModel, objective: Objective, preprocessing: Preprocessing
    ) -> PreparedMethod:
        """Prepare it for a model and all objectives of one family.

        Parameters
        ----------
        model
            The model.
        objective
            One of the family.
        preprocessing
            How pictures are brought to the model, for methods that look at others.

        Raises
        ------
        IbisaError
            It cannot explain this model; the message says why.
        """


class RowByRow(ABC):
    """A prepared method that explains the rows of a problem one after the other."""

    def run(
        self, problem: Problem, rng: np.random.Generator, control: Control
    ) -> Iterator[Results]:
        """Make the map of each row of a problem."""
        return one_by_one(problem, rng, control, self.run_one)

    @abstractmethod
    def run_one(
        self, problem: Problem, rng: np.random.Generator, control: Control
    ) -> Iterator[AttributionResult]:
        """Make the map of a problem of one row, round by round; the last one counts."""


RunOne = Callable[[Problem, np.random.Generator, Control], Iterator[AttributionResult]]
"""How a method explains the only row of a problem."""


def one_by_one(
    problem: Problem,
    rng: np.random.Generator,
    control: Control,
    run: RunOne,
) -> Iterator[Results]:
    """Explain the rows of a problem one after the other, each with its share of the time."""
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

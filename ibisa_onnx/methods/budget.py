"""Queries of a model without a gradient: how many a budget allows, counted and timed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ibisa_onnx.errors import GradientError
from ibisa_onnx.explanation import Completion
from ibisa_onnx.methods.problem import Case
from ibisa_onnx.methods.stopping import Limit

Progress = Callable[[int, int], None]
"""Told how many steps (without a gradient: queries) are done, and how many there will be."""

_FEWEST = 4


def allowance(case: Case, budget: int, spent: int = 0) -> int:
    """Return how many queries the prediction, the check and what is spent leave of a budget.

    Raises
    ------
    GradientError
        Too few for an estimate.
    """
    reserved = spent + case.filled(1) + case.filled(case.check)
    queries = (budget - reserved) // case.pair * case.pair
    if queries < _FEWEST:
        least = reserved + max(case.pair, -(-_FEWEST // case.pair) * case.pair)
        raise GradientError(
            f"a budget of {budget} forward passes is too small; give {least} or more"
        )
    return queries


class ImagesMixError(Exception):
    """The images of a batch mix, which `spent` passes have shown; the model runs one by one now."""

    def __init__(self, spent: int) -> None:
        self.spent = spent


@dataclass
class Queries:
    """The target's probability, with the queries counted and timed.

    `whole_first` tells that the first image of all is the untouched picture, which shows whether
    the images of a batch mix: then the first query raises `ImagesMixError`.
    """

    case: Case
    progress: Progress | None
    limit: Limit
    planned: int = 0
    whole_first: bool = False
    done: int = 0
    seconds: float = 0.0
    learning: float = 0.0
    answered: float = 0.0

    def __call__(self, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Return the target's probability [N] for images [N, C, H, W]."""
        begin = time.perf_counter()
        probabilities = self.case.probability(images)
        if self.done == 0 and self.whole_first and self.case.mixes(float(probabilities[0])):
            raise ImagesMixError(len(images))
        self.answered = time.perf_counter()
        self.seconds += self.answered - begin
        for _ in images:
            self.done += 1
            if self.progress is not None:
                self.progress(self.done, self.planned)
        return probabilities

    def learned(self) -> None:
        """Note how long it takes to draw conclusions, which came after the last answer."""
        self.learning = max(self.learning, time.perf_counter() - self.answered)

    def over(self, more: int) -> bool:
        """Tell whether there is no time for `more` queries, to learn from them, and the check."""
        images = more + self.case.filled(self.case.check)
        return self.limit.over(self.learning + images * self.seconds / max(1, self.done))

    @property
    def completion(self) -> Completion:
        """How many there were."""
        return Completion(self.done, self.planned, "queries", self.limit.reason)

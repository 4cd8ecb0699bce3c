"""Queries of a model without gradients: how many a budget allows, counted and timed."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ibisa_onnx.errors import GradientError
from ibisa_onnx.methods.problem import Problem
from ibisa_onnx.methods.stopping import Control
from ibisa_onnx.statements import Completion

_FEWEST = 4


def allowance(problem: Problem, budget: int, check: int, spent: int = 0) -> int:
    """Return how many queries a budget allows besides the prediction, the check and what is spent.

    `check` is the number of images that the check shows.

    Raises
    ------
    GradientError
        The budget is too small.
    """
    pair = problem.pair
    reserved = spent + problem.filled(1) + problem.filled(check)
    queries = (budget - reserved) // problem.filled(pair) * pair
    if queries < _FEWEST:
        least = reserved + problem.filled(-(-_FEWEST // pair) * pair)
        raise GradientError(
            f"a budget of {budget} forward passes is too small; use {least} or more"
        )
    return queries


class ImagesMixError(Exception):
    """A batch mixes its images, as `spent` passes showed; from now on the model runs one by one."""

    def __init__(self, spent: int) -> None:
        self.spent = spent


@dataclass
class Queries:
    """Probability of the objective for one image, with queries counted and timed.

    `check` images follow when the queries are done, for which time is reserved. `whole_first`
    states that the first image is the unmasked one, which reveals whether a batch mixes its images;
    the first query then raises `ImagesMixError`.
    """

    problem: Problem
    control: Control
    planned: int = 0
    check: int = 0
    whole_first: bool = False
    done: int = 0
    seconds: float = 0.0
    learning: float = 0.0
    answered: float = 0.0

    def __call__(self, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Return the objective's probability [N] for images [N, C, H, W]."""
        begin = time.perf_counter()
        whole = self.done == 0 and self.whole_first
        batch = self.problem.model.max_batch if whole else 1
        probabilities = self.problem.score(images)
        if whole and self.problem.mixes(float(probabilities[0]), batch):
            raise ImagesMixError(len(images))
        self.answered = time.perf_counter()
        self.seconds += self.answered - begin
        for _ in images:
            self.done += 1
            self.control.progress(self.done, self.planned)
        return probabilities

    def learned(self) -> None:
        """Record how long it took to process the last scores."""
        self.learning = max(self.learning, time.perf_counter() - self.answered)

    def over(self, more: int) -> bool:
        """Return whether there is no time for `more` queries, their processing, and the check."""
        images = more + self.problem.filled(self.check)
        ahead = self.learning + images * self.seconds / max(1, self.done)
        return self.control.stopping.over(ahead)

    @property
    def completion(self) -> Completion:
        """Number of queries done and planned."""
        return Completion(self.done, self.planned, "queries", self.control.stopping.reason)

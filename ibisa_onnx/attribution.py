"""One answer to one picture: its keep-probability found, by gradients or without, and then checked.

Between the algorithm (`ibisa`, `gradients.forward_only`) and the public face (`explainer`), which
prepares the picture and reports the result.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from ibisa_onnx.bottleneck import Bottleneck, Floats, enlarge
from ibisa_onnx.errors import GradientError, NonFiniteGradientError
from ibisa_onnx.explanation import Completion, Sufficiency
from ibisa_onnx.gradients import forward_only
from ibisa_onnx.gradients.ascent import pathwise
from ibisa_onnx.gradients.choice import GradientPath
from ibisa_onnx.gradients.differences import ESTIMATORS, Asking
from ibisa_onnx.gradients.precision import rounds_coarsely
from ibisa_onnx.gradients.vector_jacobian import VectorJacobian
from ibisa_onnx.ibisa import Options, optimise
from ibisa_onnx.limits import Limit
from ibisa_onnx.model import ImageModel
from ibisa_onnx.targets import ClassOutput, check_scores

Progress = Callable[[int, int], None]
"""Told how many steps (without a gradient: queries) are done, and how many there will be."""

SUFFICIENCY_AREAS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75)
"""Fractions of the picture that are shown, most needed first, to check a map: a pass each, and one
for the whole picture, which shows that the images of a batch do not mix."""

_FEWEST_QUERIES = 4
_QUERY_BATCH = 8
_SAME = 0.01  # in probability; more than rounding makes of it, in half precision or in 8 bits
_CHECK_STEPS = 3.0  # what the check takes at most, in steps of one forward and one backward pass


@dataclass(frozen=True)
class Case:
    """An answer to be explained: of which model, to which picture, read off which output."""

    model: ImageModel
    bottleneck: Bottleneck
    output: ClassOutput
    index: int
    answer: float
    """The class's probability for the untouched picture, run alone."""

    def mixes(self, probability: float) -> bool:
        """Tell by what the untouched picture got in a batch whether the images of one mix.

        The model then runs one by one from here on.
        """
        if abs(probability - self.answer) <= _SAME or self.model.max_batch == 1:
            return False
        if self.model.image.batch is not None:  # fixed: there is no other way to run it
            return False
        self.model.run_one_by_one("gives an image other scores in a batch than alone")
        return True

    def probability(self, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Return the class's probability [N] by the deployed model, for images [N, C, H, W]."""
        name = self.output.name
        raw = self.model.run(images, [name])[name]
        check_scores(name, raw)
        return self.output.probabilities(raw)[:, self.index]


@dataclass(frozen=True)
class Found:
    """What is known after a round.

    Attributes
    ----------
    cells
        float32 [r, c]: lambda, in 0..1, of a grid of cells.
    size
        Height and width of the model's input.
    completion
        How much of the work was done by then.
    estimate
        What it comes from, where that is a regression.
    """

    cells: Floats
    size: tuple[int, int]
    completion: Completion
    estimate: forward_only.Estimate | None = None

    @cached_property
    def keep(self) -> Floats:
        """Lambda of each pixel, float32 [h, w]."""
        return _enlarged(self.cells, self.size)

    @property
    def effect(self) -> Floats | None:
        """What showing each pixel adds to the probability, float32 [h, w], where that is known."""
        return None if self.estimate is None else self._per_pixel(self.estimate.effect)

    @property
    def deviation(self) -> Floats | None:
        """The standard deviation of the effect, float32 [h, w]."""
        return None if self.estimate is None else self._per_pixel(self.estimate.deviation)

    def _per_pixel(self, of_cells: npt.NDArray[np.float64]) -> Floats:
        share = self.cells.size / (self.size[0] * self.size[1])  # cells a pixel
        return _enlarged((share * of_cells).astype(np.float32), self.size)


def search(
    case: Case,
    path: GradientPath,
    options: Options,
    seed: int,
    progress: Progress | None,
    limit: Limit,
) -> Iterator[Found]:
    """Look for lambda, round by round; at least one is always done.

    Raises
    ------
    NonFiniteGradientError
        The gradient is NaN or infinite on this image.
    GradientError
        The budget is too small for an estimate without gradients.
    """
    rng = np.random.default_rng(seed)
    if path.source is not None:
        function = path.source(case.bottleneck)
        rounds = _by_gradient(case, function, options, rng, progress, limit)
    elif path.name in ESTIMATORS:
        rounds = _by_differences(case, path.name, options, rng, progress, limit)
    else:
        rounds = _by_regression(case, options.budget, rng, progress, limit)
    for found in rounds:
        if not np.isfinite(found.cells).all():
            raise NonFiniteGradientError(
                f"the {path.name} gradient is NaN or infinite on this image; "
                "try --gradient forward-only"
            )
        yield found


def check_sufficiency(case: Case, keep: Floats) -> Sufficiency:
    """Show the model the most needed pixels alone, over the baseline.

    Parameters
    ----------
    keep
        float32 [h, w], the size of the model's input.
    """
    rank = np.empty(keep.size, np.float32)
    coldness = (65535 * (1 - keep.ravel())).astype(np.uint16)  # sorted in linear time
    rank[np.argsort(coldness, kind="stable")] = np.arange(len(rank))
    areas = np.array((*SUFFICIENCY_AREAS, 1), np.float32)[:, None, None, None]
    shown = rank.reshape(1, 1, *keep.shape) < areas * len(rank)
    images = np.where(shown, case.bottleneck.image, case.bottleneck.baseline)
    scores = case.probability(images)
    if case.mixes(float(scores[-1])):
        scores = case.probability(images)
    return Sufficiency(SUFFICIENCY_AREAS, tuple(float(score) for score in scores[:-1]))


def _by_gradient(
    case: Case,
    function: VectorJacobian,
    options: Options,
    rng: np.random.Generator,
    progress: Progress | None,
    limit: Limit,
) -> Iterator[Found]:
    """Take IBISA's ten steps."""

    def slope(mask: Floats) -> Floats:
        raw, saved = function.forward(mask[None, None])
        cotangent = case.output.slope(raw, case.index)
        return np.asarray(function.backward(saved, cotangent)[0, 0])

    size, steps = case.bottleneck.size, options.steps
    begin = time.perf_counter()
    ascent = pathwise(slope, options.temperature)
    for done, keep in enumerate(optimise(ascent, size, options, rng), 1):
        if progress is not None:
            progress(done, steps)
        pace = (time.perf_counter() - begin) / done
        over = done < steps and limit.over((1 + _CHECK_STEPS) * pace)
        yield Found(keep, size, Completion(done, steps, "steps", limit.reason))
        if over:
            return


def _by_differences(
    case: Case,
    name: str,
    options: Options,
    rng: np.random.Generator,
    progress: Progress | None,
    limit: Limit,
) -> Iterator[Found]:
    """Take the ten steps along an ascent that is estimated from forward passes."""
    estimator, queries = ESTIMATORS[name], _Queries(case, progress, limit)
    asking = Asking(
        queries,
        case.bottleneck,
        options.temperature,
        coarse=rounds_coarsely(case.model, case.output.name),
        fixed=case.model.image.batch or 1,
        grid=options.grid,
    )
    allowance = _allowance(case, options.budget, _see_whether_images_mix(case))
    plan = estimator.plan(asking, allowance, options.steps)
    shares = [estimator.queries(asking, each) for each in plan]
    queries.planned = sum(shares)
    options, size = replace(options, steps=len(plan)), case.bottleneck.size
    steps = optimise(estimator.ascent(asking, plan, rng), size, options, rng)
    for keep, following in zip(steps, [*shares[1:], 0], strict=True):
        over = following > 0 and queries.over(following)
        yield Found(keep, size, queries.completion)
        if over:
            return


def _by_regression(
    case: Case,
    budget: int,
    rng: np.random.Generator,
    progress: Progress | None,
    limit: Limit,
) -> Iterator[Found]:
    """Spend what the prediction and the check leave of the budget on queries."""
    unused = deepcopy(rng)
    try:
        yield from _estimated(_queries(case, budget, 0, progress, limit), rng)
    except _ImagesMixError as found:  # at the first query; what it told is worth nothing
        yield from _estimated(_queries(case, budget, found.spent, progress, limit), unused)


def _estimated(queries: _Queries, rng: np.random.Generator) -> Iterator[Found]:
    """Make all queries, and say after each round what they tell."""
    case, pair = queries.case, _pair(queries.case)
    size, batch = case.bottleneck.size, -(-_QUERY_BATCH // pair) * pair
    for estimate in forward_only.estimates(
        queries,
        case.bottleneck,
        queries.planned,
        rng,
        batch=batch,
        multiple=pair // 2,
        over=lambda: queries.over(batch),
    ):
        queries.learned()
        over = queries.done < queries.planned and queries.over(batch)
        yield Found(estimate.keep, size, queries.completion, estimate)
        if over:
            return


class _ImagesMixError(Exception):
    """The images of a batch mix, which `spent` passes have shown; the model runs one by one now."""

    def __init__(self, spent: int) -> None:
        self.spent = spent


@dataclass
class _Queries:
    """The target's probability, with the queries counted and timed.

    `whole_first` tells that the first image of all is the untouched picture, which shows whether
    the images of a batch mix: then the first query raises `_ImagesMixError`.
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
        begin = time.perf_counter()
        probabilities = self.case.probability(images)
        if self.done == 0 and self.whole_first and self.case.mixes(float(probabilities[0])):
            raise _ImagesMixError(len(images))
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
        images = more + _filled(self.case, len(SUFFICIENCY_AREAS) + 1)
        return self.limit.over(self.learning + images * self.seconds / max(1, self.done))

    @property
    def completion(self) -> Completion:
        """How many there were."""
        return Completion(self.done, self.planned, "queries", self.limit.reason)


def _queries(
    case: Case, budget: int, spent: int, progress: Progress | None, limit: Limit
) -> _Queries:
    """Return the queries that a budget allows, of which the first has the untouched picture."""
    return _Queries(case, progress, limit, _allowance(case, budget, spent), whole_first=True)


def _allowance(case: Case, budget: int, spent: int = 0) -> int:
    """Return how many queries the prediction, the check and what is spent leave of a budget."""
    reserved = spent + _filled(case, 1) + _filled(case, len(SUFFICIENCY_AREAS) + 1)
    pair = _pair(case)
    queries = (budget - reserved) // pair * pair
    if queries < _FEWEST_QUERIES:
        least = reserved + max(pair, -(-_FEWEST_QUERIES // pair) * pair)
        raise GradientError(
            f"a budget of {budget} forward passes is too small; give {least} or more"
        )
    return queries


def _pair(case: Case) -> int:
    """Return the fewest images that are whole pairs and whole batches."""
    fixed = case.model.image.batch or 1
    return fixed if fixed % 2 == 0 else 2 * fixed


def _filled(case: Case, images: int) -> int:
    """Return how many passes so many images take: a fixed batch is filled up."""
    fixed = case.model.image.batch or 1
    return -(-images // fixed) * fixed


def _see_whether_images_mix(case: Case) -> int:
    """Run the untouched picture beside the baseline, where the batch is open.

    Returns the passes that took.
    """
    if case.model.image.batch is not None or case.model.max_batch == 1:
        return 0
    ends = np.array([1, 0], np.float32).reshape(2, 1, 1, 1)
    case.mixes(float(case.probability(case.bottleneck.through(ends))[0]))
    return len(ends)


def _enlarged(keep: Floats, size: tuple[int, int]) -> Floats:
    return np.asarray(enlarge(keep[None, None], size)[0, 0])

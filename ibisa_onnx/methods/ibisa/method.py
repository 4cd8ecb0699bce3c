"""One answer to one picture: its keep-probability found, by gradients or without.

Between the algorithm (`ibisa`, `gradients.forward_only`) and the public face (`explainer`), which
prepares the picture and reports the result.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from ibisa_onnx.errors import NonFiniteGradientError
from ibisa_onnx.explanation import Completion
from ibisa_onnx.gradients.base import VectorJacobian
from ibisa_onnx.gradients.selection import GradientPath
from ibisa_onnx.methods.budget import ImagesMixError, Progress, Queries, allowance
from ibisa_onnx.methods.ibisa import forward_only
from ibisa_onnx.methods.ibisa.estimators import ESTIMATORS, Asking
from ibisa_onnx.methods.ibisa.optimizer import Options, optimise
from ibisa_onnx.methods.ibisa.step import Pull, Slope, pathwise
from ibisa_onnx.methods.masking import Floats, enlarge
from ibisa_onnx.methods.problem import Case
from ibisa_onnx.methods.stopping import Limit

_BATCH = 8
_CHECK = 3.0  # what the check takes at most, in steps of one forward and one backward pass


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
    difference
        How far the probabilities of the path that was differentiated are from the deployed
        model's, where that is known only now (see `Certificate`).
    """

    cells: Floats
    size: tuple[int, int]
    completion: Completion
    estimate: forward_only.Estimate | None = None
    difference: float | None = None

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
        rounds = _by_differences(case, path, options, rng, progress, limit)
    else:
        rounds = _by_regression(case, options.budget, rng, progress, limit)
    for found in rounds:
        if not np.isfinite(found.cells).all():
            raise NonFiniteGradientError(
                f"the {path.name} gradient is NaN or infinite on this image; "
                "try --gradient forward-only"
            )
        yield found


def slope_of(case: Case, function: VectorJacobian) -> Slope:
    """Return d log p / d mask of a case, by the gradient of raw scores by masks."""
    reals = replace(case.output, quantisation=None)  # which is what the function returns

    def slope(mask: Floats) -> Pull:
        raw, saved = function.forward(mask[None, None])
        gradient = function.backward(saved, case.output.slope(raw, case.index))[0, 0]
        probability = float(reals.probabilities(raw)[0, case.index])
        return Pull(gradient, probability / case.answer if case.answer > 0 else 1.0)

    return slope


def _by_gradient(
    case: Case,
    function: VectorJacobian,
    options: Options,
    rng: np.random.Generator,
    progress: Progress | None,
    limit: Limit,
) -> Iterator[Found]:
    """Take IBISA's ten steps."""

    size, steps = case.bottleneck.size, options.steps * options.rounds
    begin = time.perf_counter()
    ascent = pathwise(slope_of(case, function), options.temperature)
    for done, keep in enumerate(optimise(ascent, size, options, rng), 1):
        if progress is not None:
            progress(done, steps)
        pace = (time.perf_counter() - begin) / done
        ahead = 1 + (_CHECK if case.check else 0)
        over = done < steps and limit.over(ahead * pace)
        yield Found(keep, size, Completion(done, steps, "steps", limit.reason))
        if over:
            return


def _by_differences(
    case: Case,
    path: GradientPath,
    options: Options,
    rng: np.random.Generator,
    progress: Progress | None,
    limit: Limit,
) -> Iterator[Found]:
    """Take the ten steps along an ascent that is estimated from forward passes."""
    estimator, queries = ESTIMATORS[path.name], Queries(case, progress, limit)
    asking = Asking(
        queries,
        case.bottleneck,
        options.temperature,
        coarse=path.coarse,
        fixed=case.fixed,
        grid=options.grid,
    )
    spent = case.see_whether_images_mix()
    plan = estimator.plan(asking, allowance(case, options.budget, spent), options.steps)
    shares = [estimator.queries(asking, each) for each in plan]
    queries.planned = sum(shares)
    options, size = replace(options, steps=len(plan), rounds=1), case.bottleneck.size
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
    unused, planned = deepcopy(rng), allowance(case, budget)
    try:
        queries = Queries(case, progress, limit, planned, whole_first=True)
        yield from _estimated(queries, rng)
    except ImagesMixError as found:  # at the first query; what it told is worth nothing
        planned = allowance(case, budget, found.spent)
        yield from _estimated(Queries(case, progress, limit, planned), unused)


def _estimated(queries: Queries, rng: np.random.Generator) -> Iterator[Found]:
    """Make all queries, and say after each round what they tell."""
    case = queries.case
    size, batch = case.bottleneck.size, -(-_BATCH // case.pair) * case.pair
    for estimate in forward_only.estimates(
        queries,
        case.bottleneck,
        queries.planned,
        rng,
        batch=batch,
        multiple=case.pair // 2,
        over=lambda: queries.over(batch),
    ):
        queries.learned()
        over = queries.done < queries.planned and queries.over(batch)
        yield Found(estimate.keep, size, queries.completion, estimate)
        if over:
            return


def _enlarged(keep: Floats, size: tuple[int, int]) -> Floats:
    return np.asarray(enlarge(keep[None, None], size)[0, 0])

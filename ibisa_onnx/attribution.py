"""One answer to one picture: its keep-probability found, by gradients or without, and then checked.

Between the algorithm (`ibisa`, `gradients.forward_only`) and the public face (`explainer`), which
prepares the picture and reports the result.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ibisa_onnx.bottleneck import Bottleneck, Floats, enlarge
from ibisa_onnx.errors import GradientError, NonFiniteGradientError
from ibisa_onnx.explanation import Sufficiency
from ibisa_onnx.gradients import forward_only
from ibisa_onnx.gradients.choice import GradientPath
from ibisa_onnx.gradients.vector_jacobian import VectorJacobian
from ibisa_onnx.ibisa import Options, Progress, optimise
from ibisa_onnx.model.session import DeployedModel
from ibisa_onnx.targets import ClassOutput, check_scores

SUFFICIENCY_AREAS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75)
"""Fractions of the picture that are shown, most needed first, to check a map: a pass each, and one
for the whole picture, which shows that the images of a batch do not mix."""

_FEWEST_QUERIES = 4
_QUERY_BATCH = 8
_SAME = 0.01  # in probability; more than rounding makes of it, in half precision or in 8 bits


@dataclass(frozen=True)
class Case:
    """An answer to be explained: of which model, to which picture, read off which output."""

    model: DeployedModel
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


def keep_probability(
    case: Case, path: GradientPath, options: Options, seed: int, progress: Progress | None
) -> Floats:
    """Return lambda at the size of the model's input, float32 [h, w] in 0..1.

    Raises
    ------
    NonFiniteGradientError
        The gradient is NaN or infinite on this image.
    GradientError
        The budget is too small for an estimate without gradients.
    """
    rng = np.random.default_rng(seed)
    if path.source is None:
        keep = _without_gradient(case, options.budget, rng, progress)
    else:
        keep = _by_gradient(case, path.source(case.bottleneck), options, rng, progress)
    if not np.isfinite(keep).all():
        raise NonFiniteGradientError(
            f"the {path.name} gradient is NaN or infinite on this image; "
            "try --gradient forward-only"
        )
    return np.asarray(enlarge(keep[None, None], case.bottleneck.size)[0, 0])


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
) -> Floats:
    """Take IBISA's ten steps."""

    def slope(mask: Floats) -> Floats:
        raw, saved = function.forward(mask[None, None])
        cotangent = case.output.slope(raw, case.index)
        return np.asarray(function.backward(saved, cotangent)[0, 0])

    ticker = _ticker(progress, options.steps)
    return optimise(slope, case.bottleneck.size, options, rng, ticker)


def _without_gradient(
    case: Case, budget: int, rng: np.random.Generator, progress: Progress | None
) -> Floats:
    """Spend what the prediction and the check leave of the budget on queries."""
    fixed = case.model.image.batch or 1  # what is run is filled up to whole batches
    reserved = fixed + -(-(len(SUFFICIENCY_AREAS) + 1) // fixed) * fixed
    if case.model.image.batch is None:
        reserved += 2
    pair = fixed if fixed % 2 == 0 else 2 * fixed
    queries = (budget - reserved) // pair * pair
    if queries < _FEWEST_QUERIES:
        least = reserved + max(pair, -(-_FEWEST_QUERIES // pair) * pair)
        raise GradientError(
            f"a budget of {budget} forward passes is too small; give {least} or more"
        )
    if case.model.image.batch is None and case.model.max_batch > 1:
        ends = np.array([1, 0], np.float32).reshape(2, 1, 1, 1)
        case.mixes(float(case.probability(case.bottleneck.through(ends))[0]))
    return forward_only.keep_probability(
        case.probability,
        case.bottleneck,
        queries,
        rng,
        _ticker(progress, queries),
        batch=-(-_QUERY_BATCH // pair) * pair,
        multiple=pair // 2,
    )


def _ticker(progress: Progress | None, total: int) -> Callable[[], None]:
    """Return what tells the user's `progress` of one more pass."""
    if progress is None:
        return lambda: None
    told, done = progress, iter(range(1, total + 1))
    return lambda: told(next(done), total)

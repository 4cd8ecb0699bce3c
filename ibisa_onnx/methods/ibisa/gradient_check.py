"""Check of a gradient against the deployed model: a step along it, and the score there.

The fidelity check compares predictions, but a gradient may be wrong where the prediction is right.
So at the first step's mask s, where the optimiser has just computed g = d score / d s, the mask
moves by t along the gradient's sign, and the deployed model scores the result:

    predicted = g . (s' - s),  s' = clip(s + t sign g, 0, 1)
    error = |measured - predicted| / max(|measured|, |predicted|)

t changes the log-odds by 0.1 nats, small enough for the score to be almost linear: 1 - p is the
derivative of log p with respect to the log-odds. If pixels or predictions are rounded, or the path
is a surrogate, that change would be lost in rounding: the mask then moves in both directions, by
4 nats, and log-odds are compared. An objective whose score is not log p, such as the mean log-odds
of a text, is compared by its score. docs/explanation/gradients.md has the right and wrong gradients
on which this was calibrated.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import numpy as np
import numpy.typing as npt

from ibisa_onnx.errors import OutputError
from ibisa_onnx.gradients.masked_images import Floats
from ibisa_onnx.methods.problem import MaskGradient, Problem
from ibisa_onnx.targets.retention import is_log_probability

_CHANGE, _COARSE_CHANGE = 0.1, 4.0  # of the log-odds, in nats
_LEAST_STEP, _LARGEST_STEP = 1e-5, 0.1  # of a mask: smaller is rounding, larger is not local
_LOCAL_STEP = 0.02  # the largest for a score that is not log p, whose scale is unknown
_ROUNDING = 1e-5  # of such a score, relative to 1 + |score|
_SURE = 1e-5  # 1 - p: below, log p is dominated by rounding
_NEARLY_NONE = 1e-7  # stands for a probability that was rounded to 0
_TOLD = 0.1  # of the intended change: smaller changes are ignored

Doubles = npt.NDArray[np.float64]
Gradient = Callable[[Floats], MaskGradient]


class GradientCheck:
    """Compares the first gradient of each row with the deployed model.

    Attributes
    ----------
    errors
        Relative error of each row, 0 (equal) to 2 (same magnitude, opposite sign); None if there is
        nothing to compare: not checked yet, or neither changes the score.

    Parameters
    ----------
    count
        Number of rows.
    coarse
        Whether the path's scores differ from the model's beyond rounding. The check costs one
        forward pass per row, or two if coarse.
    """

    def __init__(self, count: int, *, coarse: bool) -> None:
        self.errors: list[float | None] = [None] * count
        self._coarse, self._open = coarse, True

    def watch(self, problem: Problem, gradient: Gradient) -> Gradient:
        """Return the gradient of some rounds of each row, wrapped so that the first is checked."""

        def watched(masks: Floats) -> MaskGradient:
            found = gradient(masks)
            if self._open:
                self._open = False
                self._check(problem, masks, found)
            return found

        return watched

    def _check(self, problem: Problem, masks: Floats, found: MaskGradient) -> None:
        """Check the first round of each row with the model."""
        if found.probability is None or found.score is None:
            return
        rounds, before = len(masks) // len(self.errors), np.stack([found.probability, found.score])
        usable = np.isfinite(found.values).all((1, 2)) & np.isfinite(before).all(0)
        usable &= found.probability > 0
        rows = np.arange(0, len(masks), rounds)
        steps = {
            row: _Step(masks[row], found.values[row], *before[:, row], coarse=self._coarse)
            for row in rows
            if usable[row]
        }
        sides = 2 if self._coarse else 1
        # Unusable rows show the whole image, so that each row costs the same.
        whole = np.ones((sides, *masks.shape[1:]), np.float32)
        shown = [steps[row].masks[:sides] if row in steps else whole for row in rows]
        told = _ask(problem, np.repeat(rows, sides), np.concatenate(shown)[:, None])
        for place, row in enumerate(rows):
            if row in steps:
                after = told[:, place * sides : (place + 1) * sides]
                behind = after[:, 1] if self._coarse else before[:, row]
                self.errors[row // rounds] = steps[row].error(behind, after[:, 0])


def _ask(problem: Problem, rows: npt.NDArray[np.intp], masks: Floats) -> Doubles:
    """Return probabilities and scores under masks, [2, M]; NaN if a prediction is not finite."""
    images = problem.masked.take(rows).through(masks)
    try:
        return problem.probability_and_score(images, rows)
    except OutputError:  # one of them fails the whole call
        told = np.full((2, len(rows)), np.nan)
        for place, row in enumerate(rows):
            with suppress(OutputError):
                image = images[place : place + 1]
                told[:, place] = problem.probability_and_score(image, [int(row)])[:, 0]
        return told


class _Step:
    """Step from a mask along its gradient, and also backwards if coarse.

    Attributes
    ----------
    masks
        float32 [2, h, w]: forwards and backwards.
    """

    def __init__(
        self, mask: Floats, slope: Floats, probability: float, score: float, *, coarse: bool
    ) -> None:
        self._probability, self._coarse = probability, coarse
        self._of_log_p = is_log_probability(score, probability)
        # d score / d log-odds, as far as that is known
        self._room = min(1.0, abs(1 - probability)) if self._of_log_p else 1.0
        self._change = (_COARSE_CHANGE if coarse else _CHANGE) * self._room
        slopes = slope.astype(np.float64)
        # Without a gradient nothing should change, whatever is masked.
        direction = np.sign(slope) if slope.any() else -np.ones_like(slope)
        sum_ = float(np.abs(slopes).sum())
        wanted = self._change / sum_ if sum_ > 0 else _LARGEST_STEP
        local = not (self._of_log_p or coarse)
        length = np.float32(np.clip(wanted, _LEAST_STEP, _LOCAL_STEP if local else _LARGEST_STEP))
        self._least = _ROUNDING * (1 + abs(score)) if local else _TOLD * self._change
        ahead = np.clip(mask + length * direction, 0, 1)
        behind = np.clip(mask - length * direction, 0, 1) if coarse else mask
        self.masks = np.stack([ahead, behind]).astype(np.float32)
        self._predicted = float((slopes * (ahead.astype(np.float64) - behind)).sum())

    def error(self, before: Doubles, after: Doubles) -> float | None:
        """Return the relative error of the predicted change.

        Parameters
        ----------
        before, after
            Probability and score under both masks, [2].
        """
        measured = self._measured(before, after)
        if measured is None:
            return None
        largest = max(abs(measured), abs(self._predicted))
        if largest < self._least:
            return None
        return abs(measured - self._predicted) / largest

    def _measured(self, before: Doubles, after: Doubles) -> float | None:
        """Return the change of the score; None if it is unknown."""
        if self._room < _SURE or not np.isfinite([before, after]).all():
            return None
        if not self._of_log_p:
            return float(after[1] - before[1])
        first, last = float(before[0]), float(after[0])
        if first == last and first in (0, 1):  # as far as it is known
            return None
        if self._coarse and max(first, last, self._probability) <= 1:
            # For a probability near 0 the log-odds equal its logarithm, however small.
            least = min([_NEARLY_NONE, *(each for each in (first, last) if each > 0)])
            p = np.clip([first, last], least, 1 - _NEARLY_NONE)
            low, high = np.log(p) - np.log1p(-p)
            return float(high - low) * self._room
        return float(np.log(last / first)) if first > 0 and last > 0 else None

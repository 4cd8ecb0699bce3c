"""Whether a gradient is the deployed model's own: a step along it, and what the model says there.

The fidelity check compares answers, and a gradient may be wrong where the answer is right. So at
the first step's mask s, where the optimiser has just learnt g = d score / d s, the mask moves by t
along the gradient's sign, and the deployed model is asked about it:

    predicted = g . (s' - s),  s' = clip(s + t sign g, 0, 1)
    error = |measured - predicted| / max(|measured|, |predicted|)

t is what changes the log-odds by 0.1 nats, so that the score is all but a straight line: 1 - p is
the derivative of log p by the log-odds. Where pixels or answers are rounded, or the path is a
surrogate, that would drown: there the mask moves both ways, by 4 nats, and the log-odds are
compared. docs/explanation/gradients.md has the right and the wrong gradients by which this was chosen.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import numpy as np
import numpy.typing as npt

from ibisa_onnx.errors import OutputError
from ibisa_onnx.gradients.masked_images import Floats
from ibisa_onnx.methods.problem import MaskGradient, Problem

_CHANGE, _COARSE_CHANGE = 0.1, 4.0  # of the log-odds, in nats
_LEAST_STEP, _LARGEST_STEP = 1e-5, 0.1  # of a mask: less is rounding, more is not local
_SURE = 1e-5  # 1 - p: of a probability nearer to 1 the logarithm is rounding
_NEARLY_NONE = 1e-7  # what a probability of 0, which is rounded, stands for
_TOLD = 0.1  # of the change that is looked for: less is nothing

Doubles = npt.NDArray[np.float64]
Gradient = Callable[[Floats], MaskGradient]


class GradientCheck:
    """Compares the first gradient of each answer with the deployed model.

    Attributes
    ----------
    errors
        The relative error of each, 0 (the same) to 2 (as large, of the other sign); None where
        there is nothing to be compared: it was not asked yet, or neither changes the answer.

    Parameters
    ----------
    count
        How many answers.
    coarse
        Whether the path's scores are not the model's to the last bits. It costs a forward pass of
        each answer, or two where they are not.
    """

    def __init__(self, count: int, *, coarse: bool) -> None:
        self.errors: list[float | None] = [None] * count
        self._coarse, self._open = coarse, True

    def watch(self, problem: Problem, gradient: Gradient) -> Gradient:
        """Return the gradient of some rounds of each answer; the first that it gives is checked."""

        def watched(masks: Floats) -> MaskGradient:
            found = gradient(masks)
            if self._open:
                self._open = False
                self._check(problem, masks, found)
            return found

        return watched

    def _check(self, problem: Problem, masks: Floats, found: MaskGradient) -> None:
        """Ask the model about the first round of each answer."""
        rounds, before = len(masks) // len(self.errors), found.probability
        if before is None:
            return
        usable = np.isfinite(found.values).all((1, 2)) & np.isfinite(before) & (before > 0)
        rows = np.arange(0, len(masks), rounds)
        steps = {
            row: _Step(masks[row], found.values[row], before[row], self._coarse)
            for row in rows
            if usable[row]
        }
        sides = 2 if self._coarse else 1
        # What cannot be followed is shown whole, so that each answer takes as many passes.
        whole = np.ones((sides, *masks.shape[1:]), np.float32)
        shown = [steps[row].masks[:sides] if row in steps else whole for row in rows]
        told = _ask(problem, np.repeat(rows, sides), np.concatenate(shown)[:, None])
        for row, after in zip(rows, told.reshape(len(rows), sides), strict=True):
            if row in steps:
                behind = after[1] if self._coarse else before[row]
                self.errors[row // rounds] = steps[row].error(behind, after[0])


def _ask(problem: Problem, rows: npt.NDArray[np.intp], masks: Floats) -> Doubles:
    """Return the probabilities of rows behind masks, [M]; NaN where the model's answer is none."""
    images = problem.masked.take(rows).through(masks)
    try:
        return problem.score(images, rows)
    except OutputError:  # one of them spoils the call
        told = np.full(len(rows), np.nan)
        for place, row in enumerate(rows):
            with suppress(OutputError):
                told[place] = problem.score(images[place : place + 1], [int(row)])[0]
        return told


class _Step:
    """A step from a mask along its gradient, and back where the other side counts too.

    Attributes
    ----------
    masks
        float32 [2, h, w]: ahead and behind.
    """

    def __init__(self, mask: Floats, slope: Floats, probability: float, coarse: bool) -> None:
        self._probability, self._coarse = probability, coarse
        self._room = min(1.0, abs(1 - probability))  # d log p / d log-odds
        self._change = (_COARSE_CHANGE if coarse else _CHANGE) * self._room
        slopes = slope.astype(np.float64)
        # Where there is no gradient nothing should change, whatever is hidden.
        direction = np.sign(slope) if slope.any() else -np.ones_like(slope)
        sum_ = float(np.abs(slopes).sum())
        wanted = self._change / sum_ if sum_ > 0 else _LARGEST_STEP
        length = np.float32(np.clip(wanted, _LEAST_STEP, _LARGEST_STEP))
        ahead = np.clip(mask + length * direction, 0, 1)
        behind = np.clip(mask - length * direction, 0, 1) if coarse else mask
        self.masks = np.stack([ahead, behind]).astype(np.float32)
        self._predicted = float((slopes * (ahead.astype(np.float64) - behind)).sum())

    def error(self, before: float, after: float) -> float | None:
        """Return the relative error of what was predicted, by probabilities of both masks."""
        known = np.isfinite([before, after]).all()
        certain = before == after and before in (0, 1)  # as far as it is told
        if self._room < _SURE or certain or not known:
            return None
        if self._coarse and max(before, after, self._probability) <= 1:
            # Of an answer that is all but lost the log-odds are its logarithm, however small it is.
            least = min([_NEARLY_NONE, *(each for each in (before, after) if each > 0)])
            p = np.clip([before, after], least, 1 - _NEARLY_NONE)
            first, last = np.log(p) - np.log1p(-p)
            measured = float(last - first) * self._room
        elif before > 0 and after > 0:
            measured = float(np.log(after / before))
        else:
            return None
        largest = max(abs(measured), abs(self._predicted))
        if largest < _TOLD * self._change:
            return None
        return abs(measured - self._predicted) / largest

"""Retention: how much of a prediction is retained, between a baseline and the unmasked image."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ibisa_onnx.models.head import Head
from ibisa_onnx.targets.base import Doubles, Objective, Raw

LOST = 0.5
"""Fraction of the class probability below which a prediction counts as lost."""

KEPT = 0.9
"""Fraction of the class probability at which a prediction counts as preserved."""

_ROUNDING = 1e-3  # of a retention: the image itself may exceed 1 by this much
_SURE = 1e-7  # log-odds of probabilities closer to 0 or 1 are rounding errors
_TINY = 1e-300
_SAME = 1e-3  # in nats
_APART = 1e-6  # relative: values closer than this differ by rounding
_CLEAR = 0.1  # of the baselines' spread: a larger drop is a clear loss
LEAST = 0.05
"""Retention below which the logarithm is continued linearly, so that it keeps a gradient."""

Range = tuple[float, float]
"""Smallest and largest of some values."""


@dataclass(frozen=True)
class Retention(Objective):
    """Retention of log-odds, for predictions whose probability the baseline preserves.

    With L = log p / (1 - p), the probability of an image z is

        r(z) = (L(z) - L(baseline)) / (L(image) - L(baseline))

    and the score is log r. For objectives whose score is not log p, such as the mean log-odds of a
    text, L is the score itself. A class that the model predicts for anything ("sane", "negative")
    keeps its probability when the image is masked, but loses log-odds.

    Attributes
    ----------
    objective
        Objective whose log-odds are used.
    baseline_log_odds, picture_log_odds
        Log-odds of the baseline and of the image, in nats; the latter is larger.
    by_score
        Whether these are scores, and not log-odds of the probability.
    """

    objective: Objective
    baseline_log_odds: float
    picture_log_odds: float
    by_score: bool = False

    @property
    def outputs(self) -> tuple[str, ...]:
        """The tensors that the objective reads."""
        return self.objective.outputs

    @property
    def family(self) -> Hashable:
        """Family of the objective."""
        return self.objective.family

    def score(self, raw: Raw) -> Doubles:
        """Return log r, float64 [N], continued linearly below r = 0.05."""
        return log_retention(self._kept(raw))

    def vjp(self, raw: Raw) -> dict[str, npt.NDArray[np.float32]]:
        """Return d log r / d outputs: the objective's d score times d log r / d score."""
        slope = 1 / (np.maximum(self._kept(raw), LEAST) * self._span)
        if not self.by_score:
            p = self.objective.probability(raw)
            slope = slope / np.maximum(1 - p, _SURE)
            slope[p > 1] = 0  # log-odds are clipped there
        return {
            name: (slope.reshape(-1, *[1] * (each.ndim - 1)) * each).astype(np.float32)
            for name, each in self.objective.vjp(raw).items()
        }

    def describe(self) -> dict[str, Any]:
        """Return the objective's own record."""
        return self.objective.describe()

    def _kept(self, raw: Raw) -> Doubles:
        score, probability = self.objective.score, self.objective.probability
        odds = score(raw) if self.by_score else log_odds(probability(raw))
        return np.asarray((odds - self.baseline_log_odds) / self._span)

    @property
    def _span(self) -> float:
        return self.picture_log_odds - self.baseline_log_odds


@dataclass(frozen=True)
class Share:
    """Retained fraction of a value, between a reference and the image's own value.

    With r = (y - reference) / (own - reference), the score is log min(r, 1), continued linearly
    below r = 0.05.

    Attributes
    ----------
    reference, own
        Values at which nothing and everything is retained; in either order, but different.
    """

    reference: float
    own: float

    @classmethod
    def between(cls, own: float, hidden: Doubles, *, rising: bool = True) -> Share | None:
        """Return the measure between the baselines' values and the image's value.

        Nothing is retained at the baseline that loses most. If none clearly loses any, the image as
        a whole does not make its value high; the measure then is what would raise the value above
        all baselines, by as much as these and the image differ, and `own` is not the image's value.

        Parameters
        ----------
        own
            Value of the unmasked image.
        hidden
            Values of the baselines, [K]; they may be NaN or infinite.
        rising
            Whether a lower value is a loss (True), or a higher one.

        Returns
        -------
        Share or None
            None if all values are equal.
        """
        values = hidden[np.isfinite(hidden)]
        spread, least = _spread(own, values)
        if spread <= least:
            return None
        sign = 1 if rising else -1
        lost = sign * (own - values)
        if lost.max() > _CLEAR * spread:
            return cls(float(values[lost.argmax()]), own)
        highest = float(values[lost.argmin()])
        return cls(highest, highest + sign * spread)

    def score(self, values: Doubles) -> Doubles:
        """Return the score of values, float64 [N] in nats."""
        return log_retention(np.minimum(self._kept(values), 1))

    def slope(self, values: Doubles) -> Doubles:
        """Return d score / d value, float64 [N]."""
        kept = self._kept(values)
        return (kept <= 1 + _ROUNDING) / (np.maximum(kept, LEAST) * (self.own - self.reference))

    def to_onnx(self, head: Head, value: str) -> str:
        """Append nodes that compute the score from a tensor [N, 1]."""
        off = head.op("Sub", value, head.constant(self.reference))
        kept = head.op("Mul", off, head.constant(1 / (self.own - self.reference)))
        one = head.constant(1)
        kept = head.op("Sub", one, head.op("Relu", head.op("Sub", one, kept)))
        share = head.op("Mul", kept, head.constant(1 / LEAST))
        return head.op("Sub", head.log(kept, LEAST), head.op("Relu", head.op("Sub", one, share)))

    def _kept(self, values: Doubles) -> Doubles:
        return np.asarray((values - self.reference) / (self.own - self.reference))


@dataclass(frozen=True)
class Nearness:
    """Closeness of a value to the image's own: the score is -((y - own) / width)^2.

    Attributes
    ----------
    own, width
        Value of the image, and the scale of deviations, above 0.
    """

    own: float
    width: float

    @classmethod
    def around(cls, own: float, hidden: Doubles) -> Nearness | None:
        """Return the closeness of which almost nothing remains at the most distant baseline.

        Parameters and return value are those of `Share.between`.
        """
        values = hidden[np.isfinite(hidden)]
        spread, least = _spread(own, values)
        return None if spread <= least else cls(own, float(np.abs(values - own).max()) / 2)

    def score(self, values: Doubles) -> Doubles:
        """Return the score of values, float64 [N] in nats."""
        return np.asarray(-(((values - self.own) / self.width) ** 2))

    def slope(self, values: Doubles) -> Doubles:
        """Return d score / d value, float64 [N]."""
        return np.asarray(-2 * (values - self.own) / self.width**2)

    def to_onnx(self, head: Head, value: str) -> str:
        """Append nodes that compute the score from a tensor [N, 1]."""
        off = head.op("Sub", value, head.constant(self.own))
        off = head.op("Mul", off, head.constant(1 / self.width))
        return head.op("Neg", head.op("Mul", off, off))


def _spread(own: float, values: Doubles) -> Range:
    """Return the spread of values and the image's own, and the part of it that is rounding."""
    everything = np.append(values, own)
    return float(np.ptp(everything)), _APART * float(np.abs(everything).max())


def value_range(values: Doubles) -> Range | None:
    """Return the smallest and largest finite value; None if no value is finite."""
    finite = values[np.isfinite(values)]
    return (float(finite.min()), float(finite.max())) if len(finite) else None


def written(values: Range, digits: int = 3) -> str:
    """Format a range; as a single number if both ends are the same at this precision."""
    first, last = (f"{each:.{digits}g}" for each in values)
    return first if first == last else f"{first} to {last}"


def log_retention(kept: Doubles) -> Doubles:
    """Return log r of retentions r, [N] of any sign, continued linearly below r = 0.05."""
    log = np.log(np.maximum(kept, LEAST))
    return np.asarray(np.where(kept < LEAST, log + kept / LEAST - 1, log))


def retained(probability: float) -> float:
    """Return the retention r, 0 to 1, for a probability exp(`log_retention`(r))."""
    if probability >= LEAST:
        return min(probability, 1.0)
    return max(0.0, LEAST * (1 + float(np.log(max(probability, _SURE) / LEAST))))


def is_log_probability(score: float, probability: float) -> bool:
    """Return whether an objective's score, in nats, is the logarithm of its probability."""
    return bool(abs(np.log(max(probability, _TINY)) - score) < _SAME)


def log_odds(probability: npt.ArrayLike) -> Doubles:
    """Return log p / (1 - p), in nats, with p clipped to 1e-7 from 0 and 1."""
    p = np.clip(np.asarray(probability, np.float64), _SURE, 1 - _SURE)
    return np.asarray(np.log(p) - np.log1p(-p))

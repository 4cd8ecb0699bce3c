"""Retention: how much of an answer is kept, between what a baseline and what the picture gives."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ibisa_onnx.models.head import Head
from ibisa_onnx.targets.base import Doubles, Objective, Raw

LOST = 0.5
"""A share of an answer's probability: where less of it is left, the answer is lost."""

KEPT = 0.9
"""A share of an answer's probability: what gives as much of it keeps the answer."""

_ROUNDING = 1e-3  # of a retention: by so much the picture itself may be above 1
_SURE = 1e-7  # log-odds of probabilities nearer to 0 or 1 are those of rounding
_APART = 1e-6  # of a value: what is nearer than that differs by rounding
_CLEAR = 0.1  # of what baselines differ by among each other: by more a value is clearly lost
LEAST = 0.05
"""A retention below which its logarithm goes on as a straight line, and so keeps its gradient."""

Range = tuple[float, float]
"""The least and the greatest of some values."""


@dataclass(frozen=True)
class Retention(Objective):
    """Retention of the log-odds, for an answer whose probability its baseline keeps.

    With L = log p / (1 - p), the probability of a picture z is

        r(z) = (L(z) - L(baseline)) / (L(picture) - L(baseline))

    and its score log r. An answer that the model gives to anything ("sane", "negative") loses no
    probability where it is hidden, but it does lose log-odds.

    Attributes
    ----------
    objective
        Whose log-odds are meant.
    baseline_log_odds, picture_log_odds
        The second is above the first.
    """

    objective: Objective
    baseline_log_odds: float
    picture_log_odds: float

    @property
    def outputs(self) -> tuple[str, ...]:
        """What the objective reads."""
        return self.objective.outputs

    @property
    def family(self) -> Hashable:
        """What the objective's gradient depends on."""
        return self.objective.family

    def score(self, raw: Raw) -> Doubles:
        """Return log r, [N], continued below r = 0.05 by its tangent."""
        return log_retention(self._kept(raw))

    def vjp(self, raw: Raw) -> dict[str, npt.NDArray[np.float32]]:
        """Return d log r / d outputs: the objective's own d log p, times d log r / d log p."""
        p = self.objective.probability(raw)
        slope = 1 / (np.maximum(self._kept(raw), LEAST) * self._span * np.maximum(1 - p, _SURE))
        slope[p > 1] = 0  # where the log-odds are clipped
        return {
            name: (slope.reshape(-1, *[1] * (each.ndim - 1)) * each).astype(np.float32)
            for name, each in self.objective.vjp(raw).items()
        }

    def describe(self) -> dict[str, Any]:
        """Return the objective's own record."""
        return self.objective.describe()

    def _kept(self, raw: Raw) -> Doubles:
        odds = log_odds(self.objective.probability(raw))
        return np.asarray((odds - self.baseline_log_odds) / self._span)

    @property
    def _span(self) -> float:
        return self.picture_log_odds - self.baseline_log_odds


@dataclass(frozen=True)
class Share:
    """How much of a value is kept, between a reference and the picture's own.

    With r = (y - reference) / (own - reference) the score is log min(r, 1), continued below
    r = 0.05 by its tangent.

    Attributes
    ----------
    reference, own
        They differ; either may be above the other.
    """

    reference: float
    own: float

    @classmethod
    def between(cls, own: float, hidden: Doubles, *, rising: bool = True) -> Share | None:
        """Return the share of a value between where the picture is hidden and the picture.

        Nothing is kept at the baseline that loses most of it. Where none clearly loses any, the
        picture as a whole does not make its value high. It is then measured what would raise the
        value above that of all baselines, by as much as these and the picture differ: `own` is not
        the picture's.

        Parameters
        ----------
        own
            The picture's own value.
        hidden
            The values where it is hidden, by each baseline, [K]; they may be NaN or infinite.
        rising
            Whether the value is lost where it falls, or where it rises.

        Returns
        -------
        Share or None
            None where all values are the same.
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
        """Return the score of values, [N] in nats."""
        return log_retention(np.minimum(self._kept(values), 1))

    def slope(self, values: Doubles) -> Doubles:
        """Return d score / d value, [N]."""
        kept = self._kept(values)
        return (kept <= 1 + _ROUNDING) / (np.maximum(kept, LEAST) * (self.own - self.reference))

    def to_onnx(self, head: Head, value: str) -> str:
        """Write the score behind a tensor [N, 1]."""
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
    """How near a value is to the picture's own: the score is -((y - own) / width)^2.

    Attributes
    ----------
    own, width
        The second is above 0.
    """

    own: float
    width: float

    @classmethod
    def around(cls, own: float, hidden: Doubles) -> Nearness | None:
        """Return the nearness of which next to nothing is left at the farthest baseline.

        Parameters and what is returned are those of `Share.between`.
        """
        values = hidden[np.isfinite(hidden)]
        spread, least = _spread(own, values)
        return None if spread <= least else cls(own, float(np.abs(values - own).max()) / 2)

    def score(self, values: Doubles) -> Doubles:
        """Return the score of values, [N] in nats."""
        return np.asarray(-(((values - self.own) / self.width) ** 2))

    def slope(self, values: Doubles) -> Doubles:
        """Return d score / d value, [N]."""
        return np.asarray(-2 * (values - self.own) / self.width**2)

    def to_onnx(self, head: Head, value: str) -> str:
        """Write the score behind a tensor [N, 1]."""
        off = head.op("Sub", value, head.constant(self.own))
        off = head.op("Mul", off, head.constant(1 / self.width))
        return head.op("Neg", head.op("Mul", off, off))


def _spread(own: float, values: Doubles) -> Range:
    """Return what values and the picture's own differ by, and what is rounding of it."""
    everything = np.append(values, own)
    return float(np.ptp(everything)), _APART * float(np.abs(everything).max())


def value_range(values: Doubles) -> Range | None:
    """Return the least and the greatest of values that are finite; None where none is."""
    finite = values[np.isfinite(values)]
    return (float(finite.min()), float(finite.max())) if len(finite) else None


def written(values: Range, digits: int = 3) -> str:
    """Write a range, as one number where it is one at so many digits."""
    first, last = (f"{each:.{digits}g}" for each in values)
    return first if first == last else f"{first} to {last}"


def log_retention(kept: Doubles) -> Doubles:
    """Return log r of retentions r, [N] of any sign, continued below r = 0.05 by its tangent."""
    log = np.log(np.maximum(kept, LEAST))
    return np.asarray(np.where(kept < LEAST, log + kept / LEAST - 1, log))


def retained(probability: float) -> float:
    """Return the retention r, 0 to 1, of a probability exp(`log_retention`(r))."""
    if probability >= LEAST:
        return min(probability, 1.0)
    return max(0.0, LEAST * (1 + float(np.log(max(probability, _SURE) / LEAST))))


def log_odds(probability: npt.ArrayLike) -> Doubles:
    """Return log p / (1 - p), in nats, of probabilities kept 1e-7 away from 0 and 1."""
    p = np.clip(np.asarray(probability, np.float64), _SURE, 1 - _SURE)
    return np.asarray(np.log(p) - np.log1p(-p))

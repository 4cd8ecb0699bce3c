"""Retention: how much of an answer is kept, between what a baseline and what the picture gives."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ibisa_onnx.targets.base import Doubles, Objective, Raw

LOST = 0.5
"""A share of an answer's probability: where less of it is left, the answer is lost."""

KEPT = 0.9
"""A share of an answer's probability: what gives as much of it keeps the answer."""

_SURE = 1e-7  # log-odds of probabilities nearer to 0 or 1 are those of rounding
_LEAST = 0.05  # of the retention: below, the logarithm goes on as a straight line


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
        kept = self._kept(raw)
        log = np.log(np.maximum(kept, _LEAST))
        return np.asarray(np.where(kept < _LEAST, log + kept / _LEAST - 1, log))

    def vjp(self, raw: Raw) -> dict[str, npt.NDArray[np.float32]]:
        """Return d log r / d outputs: the objective's own d log p, times d log r / d log p."""
        p = self.objective.probability(raw)
        slope = 1 / (np.maximum(self._kept(raw), _LEAST) * self._span * np.maximum(1 - p, _SURE))
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


def log_odds(probability: npt.ArrayLike) -> Doubles:
    """Return log p / (1 - p), in nats, of probabilities kept 1e-7 away from 0 and 1."""
    p = np.clip(np.asarray(probability, np.float64), _SURE, 1 - _SURE)
    return np.asarray(np.log(p) - np.log1p(-p))

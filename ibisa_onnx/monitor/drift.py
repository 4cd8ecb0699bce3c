"""Statistics that compare a recent window of a measure with its reference.

An alarm is raised by the two-sample Kolmogorov-Smirnov test; the population stability index is
reported beside it as the size of the change. Missing values are counted and never averaged.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_BINS = 10  # deciles, as is usual for the index


@dataclass(frozen=True)
class Statistics:
    """One measure in one window.

    Attributes
    ----------
    count
        Observations with a value.
    missing
        Observations without a value, in none of the statistics.
    mean
        Mean of the values (of a yes-or-no measure, the fraction of yes); None without values.
    """

    count: int
    missing: int
    mean: float | None


@dataclass(frozen=True)
class Comparison:
    """A measure in the recent window against the reference.

    Attributes
    ----------
    reference
        Statistics of the reference window.
    recent
        Statistics of the recent window.
    distance
        Two-sample Kolmogorov-Smirnov statistic, in 0..1: the largest difference between both
        cumulative distributions. None while either window has fewer values than the minimum.
    p_value
        Upper bound on the probability of a distance this large without drift; None like `distance`.
    psi
        Population stability index over the reference's deciles, 0 or more; by convention, a change
        is small below 0.1 and large above 0.25, for large windows: without drift it averages about
        9 (1/n + 1/m). None like `distance`.
    drifted
        Whether `p_value` is below the level of one measure.
    """

    reference: Statistics
    recent: Statistics
    distance: float | None
    p_value: float | None
    psi: float | None
    drifted: bool


def compare(
    reference: Sequence[float | None],
    recent: Sequence[float | None],
    *,
    minimum: int,
    level: float,
) -> Comparison:
    """Compare a measure in two windows.

    Parameters
    ----------
    reference
        Values of the reference; None is missing.
    recent
        Recent values.
    minimum
        Fewest values in each window that are compared.
    level
        Largest probability of a false alarm.

    Returns
    -------
    Comparison
        Statistics, distances and whether the measure drifted.
    """
    before, after = _present(reference), _present(recent)
    described = (_statistics(reference, before), _statistics(recent, after))
    if min(before.size, after.size) < minimum:
        return Comparison(*described, None, None, None, False)
    distance = ks_distance(before, after)
    p_value = ks_bound(distance, before.size, after.size)
    return Comparison(*described, distance, p_value, psi(before, after), p_value < level)


def ks_distance(first: npt.NDArray[np.float64], second: npt.NDArray[np.float64]) -> float:
    """Return the two-sample Kolmogorov-Smirnov statistic, max |F(x) - G(x)| (Smirnov, 1939)."""
    at = np.concatenate([first, second])
    below = [
        np.searchsorted(np.sort(each), at, side="right") / each.size for each in (first, second)
    ]
    return float(np.abs(below[0] - below[1]).max())


def ks_bound(distance: float, first: int, second: int) -> float:
    """Return the leading term of Smirnov's limit, 2 exp(-2 D^2 n m / (n + m)), at most 1.

    The series alternates, so the leading term is above the limit; ties make it more conservative.
    N. Smirnov, "Table for estimating the goodness of fit of empirical distributions", Annals of
    Mathematical Statistics 19 (1948); F. Wei and R. Dudley, "Two-sample
    Dvoretzky-Kiefer-Wolfowitz inequalities", Statistics & Probability Letters 82 (2012), prove it
    as a bound for equal samples of at least 458 values.
    """
    return min(1.0, 2 * math.exp(-2 * distance**2 * first * second / (first + second)))


def psi(reference: npt.NDArray[np.float64], recent: npt.NDArray[np.float64]) -> float:
    """Return the population stability index, the sum of (p - q) ln(p / q) over bins.

    Bins are the reference's deciles, and one below its smallest value. An empty bin counts as half
    an observation. N. Siddiqi, "Credit Risk Scorecards" (2006); the sum is the divergence J of
    S. Kullback and R. Leibler, "On information and sufficiency" (1951).
    """
    inner = np.quantile(reference, np.arange(1, _BINS) / _BINS, method="inverted_cdf")
    edges = np.unique([np.nextafter(reference.min(), -np.inf), *inner])
    p, q = (
        np.maximum(
            np.bincount(np.searchsorted(edges, each, side="left"), minlength=edges.size + 1), 0.5
        )
        / each.size
        for each in (recent, reference)
    )
    return float(((p - q) * np.log(p / q)).sum())


def _present(values: Sequence[float | None]) -> npt.NDArray[np.float64]:
    return np.array([each for each in values if each is not None], np.float64)


def _statistics(values: Sequence[float | None], present: npt.NDArray[np.float64]) -> Statistics:
    mean = float(present.mean()) if present.size else None
    return Statistics(present.size, len(values) - present.size, mean)

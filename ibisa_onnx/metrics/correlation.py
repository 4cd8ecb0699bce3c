"""Correlation of two arrays, defined also where one of them is constant."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]
_ROUNDING = 1e-9
"""Relative variation below which values count as constant: it is rounding error."""


def pearson(first: npt.NDArray[Any], second: npt.NDArray[Any]) -> float:
    """Return Pearson's correlation of real values [n], from -1 to 1; 0 if either is constant."""
    one, two = centred(first), centred(second)
    if not (one.any() and two.any()):
        return 0.0
    return float(np.clip(one @ two / (np.linalg.norm(one) * np.linalg.norm(two)), -1, 1))


def rank_correlation(first: npt.NDArray[Any], second: npt.NDArray[Any]) -> float:
    """Return Spearman's correlation of real values [n]: Pearson's of their ranks."""
    return pearson(_ranks(first), _ranks(second))


def centred(values: npt.NDArray[Any]) -> Values:
    """Return values minus their mean, scaled to a maximum of 1; zeros if they are constant."""
    reals = np.asarray(values, np.float64)
    rest: Values = reals - reals.mean()
    largest = np.abs(rest).max()
    if largest <= _ROUNDING * np.abs(reals).max():
        return np.zeros_like(reals)
    return np.asarray(rest / largest, np.float64)


def _ranks(values: npt.NDArray[Any]) -> Values:
    """Return ranks from 1; ties share their mean rank."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[place], np.float64)

"""Description of a metric, and statistics of its scores over many images.

What a metric computes is in its own file. Only the statistics here require SciPy.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from ibisa_onnx.errors import MetricError, MissingDependencyError, OptionError


@dataclass(frozen=True)
class Metric:
    """Name, direction and range of a metric.

    Attributes
    ----------
    name
        Name in tables, in lower case: "insertion", "average drop".
    higher_is_better
        Whether higher values are better.
    limits
        The smallest and the largest possible value, assuming scores are probabilities from 0 to 1.
    description
        One line for tables and `--help`.
    """

    name: str
    higher_is_better: bool
    limits: tuple[float, float]
    description: str

    @property
    def arrow(self) -> str:
        """`↑` if higher is better, else `↓`."""
        return "↑" if self.higher_is_better else "↓"


AnyMetric = TypeVar("AnyMetric", bound=Metric)


def named(name: str, metrics: Sequence[AnyMetric]) -> AnyMetric:
    """Look up a metric by name.

    Parameters
    ----------
    name
        Case, spaces and punctuation are ignored.
    metrics
        The metrics to search.

    Returns
    -------
    Metric
        The metric of that name.

    Raises
    ------
    OptionError
        No metric has this name.
    """
    for metric in metrics:
        if _letters(metric.name) == _letters(name):
            return metric
    raise OptionError(f"unknown metric '{name}'; choose one of: {_names(metrics)}")


def _names(metrics: Sequence[Metric]) -> str:
    """List names of metrics, with conditions of one metric merged: 'insertion (blur, mean)'."""
    conditions: dict[str, list[str]] = {}
    for metric in metrics:
        name, _, condition = metric.name.rstrip(")").partition(" (")
        conditions.setdefault(name, []).extend([condition] if condition else [])
    plain = {metric.name for metric in metrics}
    known = [f"'{name}'" for name in conditions if name in plain]
    known += [f"'{name} ({', '.join(of)})'" for name, of in conditions.items() if of]
    return ", ".join(known)


def _letters(name: str) -> str:
    return "".join(filter(str.isalnum, name.lower()))


@dataclass(frozen=True)
class Interval:
    """A mean with its confidence interval.

    `str` returns text such as "+0.031 ± 0.028"; a format specification applies to both numbers:
    `f"{interval:.2f}"`.

    Attributes
    ----------
    mean
        The mean.
    half
        Half the width of the confidence interval; NaN for a single image.
    """

    mean: float
    half: float

    @property
    def low(self) -> float:
        """Lower end of the interval."""
        return self.mean - self.half

    @property
    def high(self) -> float:
        """Upper end of the interval."""
        return self.mean + self.half

    def __str__(self) -> str:
        return format(self, "+.3f")

    def __format__(self, spec: str) -> str:
        spec = spec or "+.3f"
        return f"{self.mean:{spec}} ± {self.half:{spec.lstrip('+')}}"


@dataclass(frozen=True, eq=False)
class Scores:
    """Scores of one metric over several images.

    Attributes
    ----------
    metric
        The metric.
    values
        float64 [n], one score per image, read-only.

    Raises
    ------
    MetricError
        There are no values, or one is NaN.
    """

    metric: Metric
    values: npt.NDArray[np.float64]

    def __post_init__(self) -> None:
        values = np.array(self.values, np.float64)
        if values.ndim != 1 or not values.size:
            raise MetricError(
                f"{self.metric.name}: values has shape {values.shape}; pass one score for each "
                "image, [n]"
            )
        if np.isnan(values).any():
            place = int(np.isnan(values).argmax())
            raise MetricError(f"{self.metric.name}: the score of image {place} is NaN")
        values.flags.writeable = False
        object.__setattr__(self, "values", values)

    @property
    def mean(self) -> float:
        """Mean over the images."""
        return float(self.values.mean())

    def interval(self, level: float = 0.95) -> Interval:
        """Compute the mean with its confidence interval by Student's t distribution.

        Parameters
        ----------
        level
            Confidence level, between 0 and 1.

        Returns
        -------
        Interval
            With a single image, `half` is NaN.

        Raises
        ------
        OptionError
            `level` is out of range.
        MissingDependencyError
            SciPy is not installed.
        """
        return _interval(self.values, level)

    def minus(self, other: Scores, level: float = 0.95) -> Interval:
        """Compute the mean paired difference to other scores, with its confidence interval.

        Parameters
        ----------
        other
            Scores of the same metric on the same images, in the same order.
        level
            Confidence level, between 0 and 1.

        Returns
        -------
        Interval
            Positive if these scores are higher. With a single image, `half` is NaN.

        Raises
        ------
        MetricError
            The metrics or the numbers of images differ.
        OptionError
            `level` is out of range.
        MissingDependencyError
            SciPy is not installed.
        """
        if self.metric.name != other.metric.name:
            raise MetricError(f"{self.metric.name} cannot be compared with {other.metric.name}")
        if len(self.values) != len(other.values):
            raise MetricError(
                f"{self.metric.name}: {len(self.values)} images cannot be paired with "
                f"{len(other.values)}; score the same images"
            )
        return _interval(self.values - other.values, level)


def import_stats() -> ModuleType:
    """Import `scipy.stats`; the error names the extra that installs it."""
    try:
        return importlib.import_module("scipy.stats")
    except ImportError as error:
        raise MissingDependencyError(
            f"SciPy cannot be imported ({error}); pip install 'ibisa-onnx[bench]'"
        ) from error


def _interval(values: npt.NDArray[np.float64], level: float) -> Interval:
    if not 0 < level < 1:
        raise OptionError(f"level is {level}; pass a confidence level between 0 and 1, e.g. 0.95")
    count, mean = len(values), float(values.mean())
    if count == 1:
        return Interval(mean, math.nan)
    quantile = float(import_stats().t.ppf((1 + level) / 2, count - 1))
    return Interval(mean, quantile * float(values.std(ddof=1)) / math.sqrt(count))

"""What a metric says of itself, and what it gives for many images: scores and their interval.

A metric's own file says what it computes. Here live only its description, the statistics of many
images, and SciPy, which the statistics need and nothing else does.
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
    """What a metric is called and how it is read.

    Attributes
    ----------
    name
        As tables have it, in lower case: "insertion", "average drop".
    higher_is_better
        The direction.
    limits
        The smallest and the largest value there can be. Metrics of the model's score count it in
        probabilities, from 0 to 1.
    description
        One line for tables and `--help`.
    """

    name: str
    higher_is_better: bool
    limits: tuple[float, float]
    description: str

    @property
    def arrow(self) -> str:
        """`↑` where higher is better, `↓` where lower is."""
        return "↑" if self.higher_is_better else "↓"


AnyMetric = TypeVar("AnyMetric", bound=Metric)


def named(name: str, metrics: Sequence[AnyMetric]) -> AnyMetric:
    """Return the metric of a name; case, spaces and punctuation do not matter.

    Raises
    ------
    OptionError
        There is none of that name.
    """
    for metric in metrics:
        if _letters(metric.name) == _letters(name):
            return metric
    raise OptionError(f"there is no metric '{name}'; choose among {_names(metrics)}")


def _names(metrics: Sequence[Metric]) -> str:
    """Name metrics; those of one name under several conditions once: 'insertion (blur, mean)'."""
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
    """A mean and half the width of its confidence interval.

    `str` is as in "+0.031 ± 0.028"; a format is applied to both: f"{interval:.2f}".

    Attributes
    ----------
    mean, half
        `half` is NaN where a single image says nothing of the spread.
    """

    mean: float
    half: float

    @property
    def low(self) -> float:
        """The lower end."""
        return self.mean - self.half

    @property
    def high(self) -> float:
        """The upper end."""
        return self.mean + self.half

    def __str__(self) -> str:
        return format(self, "+.3f")

    def __format__(self, spec: str) -> str:
        spec = spec or "+.3f"
        return f"{self.mean:{spec}} ± {self.half:{spec.lstrip('+')}}"


@dataclass(frozen=True, eq=False)
class Scores:
    """One metric over many images.

    Attributes
    ----------
    metric
        What was measured.
    values
        float64 [n], one for each image, in their order.

    Raises
    ------
    MetricError
        There are no values, or some are NaN.
    """

    metric: Metric
    values: npt.NDArray[np.float64]

    def __post_init__(self) -> None:
        values = np.array(self.values, np.float64)
        if values.ndim != 1 or not values.size:
            raise MetricError(
                f"{self.metric.name}: scores are one for each image, not {values.shape}"
            )
        if np.isnan(values).any():
            place = int(np.isnan(values).argmax())
            raise MetricError(f"{self.metric.name}: the score of image {place} is NaN")
        values.flags.writeable = False
        object.__setattr__(self, "values", values)

    @property
    def mean(self) -> float:
        """The mean over the images."""
        return float(self.values.mean())

    def interval(self, level: float = 0.95) -> Interval:
        """Return the mean with its confidence interval by Student's t.

        With one image the half width is NaN.
        """
        return _interval(self.values, level)

    def minus(self, other: Scores, level: float = 0.95) -> Interval:
        """Return the mean difference to `other`, image by image, with its confidence interval.

        Raises
        ------
        MetricError
            The metrics or the numbers of images differ.
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
    """Import `scipy.stats`, or say which extra brings it."""
    try:
        return importlib.import_module("scipy.stats")
    except ImportError as error:
        raise MissingDependencyError(
            f"SciPy cannot be imported ({error}); pip install 'ibisa-onnx[bench]'"
        ) from error


def _interval(values: npt.NDArray[np.float64], level: float) -> Interval:
    if not 0 < level < 1:
        raise OptionError(f"level is {level}; give a confidence between 0 and 1, such as 0.95")
    count, mean = len(values), float(values.mean())
    if count == 1:
        return Interval(mean, math.nan)
    quantile = float(import_stats().t.ppf((1 + level) / 2, count - 1))
    return Interval(mean, quantile * float(values.std(ddof=1)) / math.sqrt(count))

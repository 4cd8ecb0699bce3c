"""A map of a picture, measured where the model sees it and on the object that is in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from ibisa_onnx.errors import MetricError, OptionError
from ibisa_onnx.methods.problem import Problem
from ibisa_onnx.metrics import (
    FAITHFULNESS,
    LOCALISATION,
    FaithfulnessMetric,
    LocalisationMetric,
    Metric,
    Subject,
    box_region,
    faithfulness,
    named,
)
from ibisa_onnx.metrics.maps import Region, checked_region

_BATCH = 8

Box = tuple[int, int, int, int]
"""Left, top, right and bottom in pixels of the picture, the last two not included."""


def subject_of(problem: Problem) -> Subject:
    """Return what maps are measured on: the model's input, and the probability of the answer.

    The problem has one row.
    """
    problem.check_batch_independence()
    batch = problem.filled(_BATCH)
    return Subject(problem.score, problem.image[0], problem.blank, batch)


def at_model_size(problem: Problem, map: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return a map as the model sees it, [h, w].

    Parameters
    ----------
    map
        [H, W] of the picture, or already [h, w] of the model's input.

    Raises
    ------
    MetricError
        It has another size.
    """
    geometry = problem.row.geometry
    if map.shape == geometry.picture:
        return geometry.project(map)
    if map.shape == geometry.model:
        return map
    raise MetricError(
        f"the map is {list(map.shape)}; give one of the picture's size {list(geometry.picture)}, "
        f"or of the model's input {list(geometry.model)}"
    )


def evaluate(
    subject: Subject,
    problem: Problem,
    map: npt.NDArray[Any],
    metrics: Sequence[FaithfulnessMetric] = FAITHFULNESS,
) -> dict[str, float]:
    """Measure a map of a picture, [H, W] or [h, w], by name of the metric.

    Raises
    ------
    MetricError
        The map has another size, or is not finite.
    """
    if not np.isfinite(map).all():
        raise MetricError("the map has values that are not finite")
    return faithfulness(subject, at_model_size(problem, map), metrics)


@dataclass(frozen=True)
class Threshold:
    """The worst value of a metric that is good enough."""

    metric: Metric
    value: float

    def miss(self, scores: Mapping[str, float]) -> str:
        """Say how scores, by name of the metric, fall short; empty where they do not."""
        score, higher = scores[self.metric.name], self.metric.higher_is_better
        if score >= self.value if higher else score <= self.value:
            return ""
        return f"{self.metric.name} is {score:.6g}, {'under' if higher else 'over'} {self.value:g}"


class MetricSelection:
    """What is measured of maps, and what must be reached; all of it checked before any work.

    Parameters
    ----------
    metrics
        Names; none: all that there are, those of localisation where the object is known.
    thresholds
        Names and values. What they name is measured too.
    box
        Where the object is; without it there is no localisation.

    Raises
    ------
    OptionError
        There is no such metric, a value is not finite, or localisation has no box.
    """

    def __init__(
        self,
        metrics: Sequence[str] = (),
        thresholds: Sequence[tuple[str, float]] = (),
        box: Box | None = None,
    ) -> None:
        self.box = box
        known: tuple[FaithfulnessMetric | LocalisationMetric, ...] = (*FAITHFULNESS, *LOCALISATION)
        usual = known if box else FAITHFULNESS
        wanted = [named(name, known) for name in metrics] or usual
        self.thresholds = tuple(Threshold(named(name, known), value) for name, value in thresholds)
        names = {each.name for each in (*wanted, *(each.metric for each in self.thresholds))}
        self.faithfulness = tuple(each for each in FAITHFULNESS if each.name in names)
        self.localisation = tuple(each for each in LOCALISATION if each.name in names)
        if self.localisation and box is None:
            raise OptionError(f"{self.localisation[0].name} needs to know the object: give a box")
        for each in self.thresholds:
            if not np.isfinite(each.value):
                raise OptionError(f"{each.metric.name} cannot reach {each.value}; give a number")

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """What is measured, in the usual order."""
        return *self.faithfulness, *self.localisation

    def misses(self, scores: Mapping[str, float]) -> list[str]:
        """Say which thresholds scores, by name of the metric, do not reach."""
        return [text for each in self.thresholds if (text := each.miss(scores))]


@dataclass(frozen=True)
class MapEvaluator:
    """Measures maps of one picture by a selection of metrics.

    Raises
    ------
    MetricError
        The box holds no pixel of the picture, or all of them.
    """

    problem: Problem
    selection: MetricSelection

    def __post_init__(self) -> None:
        _ = self._region

    def check(self, map: npt.NDArray[Any]) -> None:
        """Raise `MetricError` where a map has another size than picture and model's input."""
        at_model_size(self.problem, map)

    def __call__(self, map: npt.NDArray[Any]) -> dict[str, float]:
        """Measure a map, [H, W] or [h, w], by name of the metric.

        Raises
        ------
        MetricError
            The map has another size, or is not finite; a metric is not defined here.
        """
        scores = {}
        if self.selection.faithfulness:
            scores = evaluate(self._subject, self.problem, map, self.selection.faithfulness)
        if self._region is None:
            return scores
        geometry = self.problem.row.geometry
        whole = map if map.shape == geometry.picture else geometry.restore(map)
        found = {each.name: each(whole, self._region) for each in self.selection.localisation}
        return scores | found

    @cached_property
    def _subject(self) -> Subject:
        return subject_of(self.problem)

    @cached_property
    def _region(self) -> Region | None:
        box, picture = self.selection.box, self.problem.row.geometry.picture
        return None if box is None else checked_region(box_region(box, picture), picture)

"""A map of a picture, measured where the model sees it and on the object that is in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from ibisa_onnx.errors import MetricError, OptionError
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
from ibisa_onnx.pipeline import Question

_BATCH = 8

Box = tuple[int, int, int, int]
"""Left, top, right and bottom in pixels of the picture, the last two not included."""


def subject_of(question: Question) -> Subject:
    """Return what maps are checked on: the model's input, and the probability of the answer."""
    case = question.case
    case.see_whether_images_mix()
    batch = -(-_BATCH // case.fixed) * case.fixed
    return Subject(case.probability, case.bottleneck.image[0], question.blank, batch)


def seen(question: Question, map: npt.NDArray[Any]) -> npt.NDArray[Any]:
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
    geometry = question.geometry
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
    question: Question,
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
    return faithfulness(subject, seen(question, map), metrics)


@dataclass(frozen=True)
class Floor:
    """The worst value of a metric that is good enough."""

    metric: Metric
    value: float

    def miss(self, scores: Mapping[str, float]) -> str:
        """Say how scores, by name of the metric, fall short; empty where they do not."""
        score, higher = scores[self.metric.name], self.metric.higher_is_better
        if score >= self.value if higher else score <= self.value:
            return ""
        return f"{self.metric.name} is {score:.6g}, {'under' if higher else 'over'} {self.value:g}"


class Checklist:
    """What is measured of maps, and what must be reached; all of it checked before any work.

    Parameters
    ----------
    metrics
        Names; none: all that there are, those of localisation where the object is known.
    floors
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
        floors: Sequence[tuple[str, float]] = (),
        box: Box | None = None,
    ) -> None:
        self.box = box
        known: tuple[FaithfulnessMetric | LocalisationMetric, ...] = (*FAITHFULNESS, *LOCALISATION)
        usual = known if box else FAITHFULNESS
        wanted = [named(name, known) for name in metrics] or usual
        self.floors = tuple(Floor(named(name, known), value) for name, value in floors)
        names = {each.name for each in (*wanted, *(floor.metric for floor in self.floors))}
        self.faithfulness = tuple(each for each in FAITHFULNESS if each.name in names)
        self.localisation = tuple(each for each in LOCALISATION if each.name in names)
        if self.localisation and box is None:
            raise OptionError(f"{self.localisation[0].name} needs to know the object: give a box")
        for floor in self.floors:
            if not np.isfinite(floor.value):
                raise OptionError(f"{floor.metric.name} cannot reach {floor.value}; give a number")

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """What is measured, in the usual order."""
        return *self.faithfulness, *self.localisation

    def misses(self, scores: Mapping[str, float]) -> list[str]:
        """Say which floors scores, by name of the metric, do not reach."""
        return [text for floor in self.floors if (text := floor.miss(scores))]


@dataclass(frozen=True)
class Examiner:
    """Measures maps of one picture by a checklist.

    Raises
    ------
    MetricError
        The box holds no pixel of the picture, or all of them.
    """

    question: Question
    checklist: Checklist

    def __post_init__(self) -> None:
        _ = self._region

    def check(self, map: npt.NDArray[Any]) -> None:
        """Raise `MetricError` where a map has another size than picture and model's input."""
        seen(self.question, map)

    def __call__(self, map: npt.NDArray[Any]) -> dict[str, float]:
        """Measure a map, [H, W] or [h, w], by name of the metric.

        Raises
        ------
        MetricError
            The map has another size, or is not finite; a metric is not defined here.
        """
        scores = {}
        if self.checklist.faithfulness:
            scores = evaluate(self._subject, self.question, map, self.checklist.faithfulness)
        if self._region is None:
            return scores
        geometry = self.question.geometry
        whole = map if map.shape == geometry.picture else geometry.restore(map)
        found = {each.name: each(whole, self._region) for each in self.checklist.localisation}
        return scores | found

    @cached_property
    def _subject(self) -> Subject:
        return subject_of(self.question)

    @cached_property
    def _region(self) -> Region | None:
        box, picture = self.checklist.box, self.question.geometry.picture
        return None if box is None else checked_region(box_region(box, picture), picture)

"""A map of a picture, measured where the model sees it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ibisa_onnx.errors import MetricError
from ibisa_onnx.explainer import Question
from ibisa_onnx.metrics import FAITHFULNESS, FaithfulnessMetric, Subject, faithfulness

_BATCH = 8


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

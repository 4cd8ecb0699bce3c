"""Insertion and deletion of a detector's boxes: is the object still found where pixels come and go?

Two ways to say how much of a detection is left: D-RISE's similarity, and ODAM's score of the best
box that overlaps it by more than a half. The score that is explained may be another; these are the
papers', so that maps of any method and any objective are measured alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ibisa_onnx.errors import MetricError
from ibisa_onnx.metrics.imputation import NOISE, Impute, replacing
from ibisa_onnx.metrics.insertion_deletion import Curve, deletion, insertion
from ibisa_onnx.metrics.maps import Map, Region, Saliency, checked_map, falling_order, ranks
from ibisa_onnx.metrics.metric import Metric
from ibisa_onnx.metrics.subject import Subject
from ibisa_onnx.targets.base import Box, Objective
from ibisa_onnx.targets.boxes import MatchedObjective, SimilarityToBox

_STEPS, _EVERY = 100, 10
"""ODAM's: so many steps, of so many of which one is scored."""


@dataclass(frozen=True)
class BoxMetric(Metric):
    """A metric of a map of a detection.

    Attributes
    ----------
    objective
        Gives what the subject's score has to be, from a detection.
    measure
        Computes it from a subject with that score, a checked map float64 [H, W], and how many
        pixels of it the box has.
    """

    objective: Callable[[SimilarityToBox], Objective]
    measure: Callable[[Subject, Map, int], float]

    def __call__(self, subject: Subject, saliency: Saliency, place: Box) -> float:
        """Return the metric of one map.

        Parameters
        ----------
        subject
            The picture; its score is the probability of `objective`.
        saliency
            [H, W] at the size of the picture, any real type; the higher, the more important.
        place
            The detection's box: left, top, right, bottom in pixels of the picture.

        Raises
        ------
        MetricError
            The map does not fit the picture or is not finite; the whole picture scores nothing.
        OutputError
            The model's scores are not finite, or not one for each image.
        """
        values = checked_map(saliency, subject.size)
        return self.measure(subject, values, _area(place, subject.size))


def _area(place: Box, size: tuple[int, int]) -> int:
    """Return how many pixels a box has within a picture of (H, W)."""
    (height, width), (left, top, right, bottom) = size, place
    wide = min(right, width) - max(left, 0)
    high = min(bottom, height) - max(top, 0)
    return int(max(0.0, wide) * max(0.0, high))


def _itself(detection: SimilarityToBox) -> Objective:
    return detection


def _matched(detection: SimilarityToBox) -> Objective:
    """Return ODAM's score: that of the class in the best box that overlaps by more than a half."""
    column = int(np.argmax(detection.classes))
    return MatchedObjective(detection.boxes, detection.scores, detection.place, column)


def _inserted(subject: Subject, values: Map, area: int) -> float:
    blank = np.broadcast_to(np.asarray(subject.blank, np.float32), subject.image.shape)
    return insertion(subject.score, subject.image, values, start=blank, batch=subject.batch).auc


def _deleted(subject: Subject, values: Map, area: int) -> float:
    blank = np.broadcast_to(np.asarray(subject.blank, np.float32), subject.image.shape)
    return deletion(subject.score, subject.image, values, end=blank, batch=subject.batch).auc


def _odam_inserted(subject: Subject, values: Map, area: int) -> float:
    impute = replacing(subject.image, np.asarray(subject.blank, np.float32))
    rank, counts = _ranked(values), _counts(area)
    return _curve(subject, 0.0, impute, (rank >= count for count in counts))


def _odam_deleted(subject: Subject, values: Map, area: int) -> float:
    whole = float(subject.scores([subject.image])[0])
    if not whole > 0:
        raise MetricError("the whole picture's detection scores 0: nothing can be deleted")
    rank, counts = _ranked(values), _counts(area)
    hidden = (rank < count for count in counts)
    return _curve(subject, whole, NOISE.of(subject.image), hidden) / whole


def _curve(subject: Subject, first: float, impute: Impute, hidden: Iterable[Region]) -> float:
    scores = subject.scores(impute(each) for each in hidden)
    return Curve(np.concatenate([[first], scores])).auc


def _ranked(values: Map) -> npt.NDArray[np.int64]:
    """Return at which turn each pixel comes, most salient first, [H, W]."""
    return ranks(falling_order(values)).reshape(values.shape)


def _counts(area: int) -> npt.NDArray[np.int64]:
    """Return how many pixels have come or gone at each score."""
    return np.arange(_EVERY, _STEPS + 1, _EVERY) * max(1, area // _STEPS)


BOX_METRICS: tuple[BoxMetric, ...] = (
    BoxMetric(
        "insertion (D-RISE)",
        True,
        (0.0, 1.0),
        "mean similarity to the detection as the most important pixels come first",
        _itself,
        _inserted,
    ),
    BoxMetric(
        "deletion (D-RISE)",
        False,
        (0.0, 1.0),
        "mean similarity to the detection as the most important pixels are taken away first",
        _itself,
        _deleted,
    ),
    BoxMetric(
        "insertion (ODAM)",
        True,
        (0.0, 1.0),
        "mean score of the best box there as the most important pixels come first, as many as the "
        "box has",
        _matched,
        _odam_inserted,
    ),
    BoxMetric(
        "deletion (ODAM)",
        False,
        (0.0, float("inf")),
        "the same as they become noise, as a share of the whole picture's",
        _matched,
        _odam_deleted,
    ),
)
"""Petsiuk et al. (D-RISE), CVPR 2021: RISE's curves of the similarity of equation 3. Zhao and Chan
(ODAM), ICLR 2023, as in their code: a hundred steps of a hundredth of the box's pixels, of which
each tenth is scored."""

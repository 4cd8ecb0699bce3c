"""Insertion and deletion for detections: is the object still detected when pixels are hidden?

A detection is scored in two ways: by D-RISE's similarity, and by ODAM's score of the best box that
overlaps it with an IoU above 0.5. These are the papers' scores and do not depend on the objective
that was explained, so that maps of all methods and objectives are measured alike.
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
"""ODAM's protocol: the number of steps, and every how many of them the model is run."""


@dataclass(frozen=True)
class BoxMetric(Metric):
    """A faithfulness metric for a map of one detection.

    Attributes
    ----------
    objective
        Returns, for a detection, the objective whose probability is the subject's score.
    measure
        Computes the metric from a subject with that score, a validated map float64 [H, W], and the
        area of the detection's box in pixels.
    """

    objective: Callable[[SimilarityToBox], Objective]
    measure: Callable[[Subject, Map, int], float]

    def __call__(self, subject: Subject, saliency: Saliency, place: Box) -> float:
        """Compute the metric.

        Parameters
        ----------
        subject
            The image; its score is the probability of `objective`.
        saliency
            Map [H, W] at the size of the image, any real dtype; higher is more important.
        place
            The detection's box: left, top, right, bottom in pixels of the image.

        Returns
        -------
        float
            The value, within `limits`.

        Raises
        ------
        MetricError
            The map differs in shape from the image or is not finite, or the unmodified image scores
            0.
        OutputError
            The model does not return one finite score per image.
        """
        values = checked_map(saliency, subject.size)
        return self.measure(subject, values, _area(place, subject.size))


def _area(place: Box, size: tuple[int, int]) -> int:
    """Return the area in pixels of a box, clipped to an image of (H, W)."""
    (height, width), (left, top, right, bottom) = size, place
    wide = min(right, width) - max(left, 0)
    high = min(bottom, height) - max(top, 0)
    return int(max(0.0, wide) * max(0.0, high))


def _itself(detection: SimilarityToBox) -> Objective:
    return detection


def _matched(detection: SimilarityToBox) -> Objective:
    """Return ODAM's score: the class score of the best box with an IoU above 0.5."""
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
        raise MetricError("the detection scores 0 on the unmodified image: deletion is undefined")
    rank, counts = _ranked(values), _counts(area)
    hidden = (rank < count for count in counts)
    return _curve(subject, whole, NOISE.of(subject.image), hidden) / whole


def _curve(subject: Subject, first: float, impute: Impute, hidden: Iterable[Region]) -> float:
    scores = subject.scores(impute(each) for each in hidden)
    return Curve(np.concatenate([[first], scores])).auc


def _ranked(values: Map) -> npt.NDArray[np.int64]:
    """Return the rank of each pixel, most salient first, [H, W]."""
    return ranks(falling_order(values)).reshape(values.shape)


def _counts(area: int) -> npt.NDArray[np.int64]:
    """Return how many pixels have been added or hidden each time the model is run."""
    return np.arange(_EVERY, _STEPS + 1, _EVERY) * max(1, area // _STEPS)


BOX_METRICS: tuple[BoxMetric, ...] = (
    BoxMetric(
        "insertion (D-RISE)",
        True,
        (0.0, 1.0),
        "mean similarity to the detection as pixels are inserted, most important first",
        _itself,
        _inserted,
    ),
    BoxMetric(
        "deletion (D-RISE)",
        False,
        (0.0, 1.0),
        "mean similarity to the detection as pixels are deleted, most important first",
        _itself,
        _deleted,
    ),
    BoxMetric(
        "insertion (ODAM)",
        True,
        (0.0, 1.0),
        "mean score of the best matching box as pixels are inserted, most important first, up to "
        "the area of the box",
        _matched,
        _odam_inserted,
    ),
    BoxMetric(
        "deletion (ODAM)",
        False,
        (0.0, float("inf")),
        "mean score of the best matching box as pixels become noise, most important first, as a "
        "fraction of the unmodified image's",
        _matched,
        _odam_deleted,
    ),
)
"""Metrics for maps of detections, in the order of tables.

Petsiuk et al. (D-RISE), CVPR 2021: RISE's curves of the similarity of equation 3. Zhao and Chan
(ODAM), ICLR 2023, as in their code: 100 steps of 1% of the box's pixels, scored at every tenth
step."""

"""Exact values of D-RISE's and ODAM's curves for a detector that only looks at a square."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from ibisa_onnx.errors import MetricError
from ibisa_onnx.metrics import BOX_METRICS, BoxMetric, Subject, named
from ibisa_onnx.targets.boxes import SimilarityToBox

SIDE = 12
BOX = (5.0, 3.0, 10.0, 7.0)  # the square's: 20 of 144 pixels
ELSEWHERE = (0.0, 0.0, 4.0, 2.0)
DETECTION = SimilarityToBox("boxes", "scores", BOX, (1.0, 0.0))

Asking = Callable[..., Subject]


@pytest.fixture
def asking(square: np.ndarray) -> Asking:
    """What a metric asks: how much of a white square is still there is the score of a box.

    Another box, of another class, is always there.
    """

    def make(metric: BoxMetric, box: tuple[float, ...] = BOX, sure: float = 1.0) -> Subject:
        objective = metric.objective(DETECTION)

        def score(images: np.ndarray) -> np.ndarray:
            found.append(len(images))
            left = sure * (images[:, 0, square] == 1).mean(1)
            nothing = np.zeros_like(left)
            scores = [[left, nothing], [nothing, np.full_like(left, 0.9)]]
            boxes = np.tile(np.array([box, ELSEWHERE], np.float32), (len(images), 1, 1))
            return objective.probability(
                {"boxes": boxes, "scores": np.array(scores).transpose(2, 0, 1)}
            )

        found: list[int] = []
        image = square[None].astype(np.float32)
        return Subject(score, image, blank=0.5)

    return make


# D-RISE: 6 pixels a step, 24 steps. The square is there after 0, 6, 12, 18 and 20 pixels, as 0, .3,
# .6, .9 and 1, or has gone; of the inverse map 124 pixels come before it.
# ODAM: a hundredth of the box is no pixel, so one; scores after 10, 20 ... 100 pixels.
PERFECT = {
    "insertion (D-RISE)": (0.3 + 0.6 + 0.9 + 21 - 0.5) / 24,
    "deletion (D-RISE)": (1 + 0.7 + 0.4 + 0.1 - 0.5) / 24,
    "insertion (ODAM)": (0.5 + 9 - 0.5) / 10,
    "deletion (ODAM)": (1 + 0.5 - 0.5) / 10,
}
INVERSE = {
    "insertion (D-RISE)": (0.1 + 0.4 + 0.7 + 1 - 0.5) / 24,
    "deletion (D-RISE)": (21 + 0.9 + 0.6 + 0.3 - 0.5) / 24,
    "insertion (ODAM)": 0.0,
    "deletion (ODAM)": 1.0,
}
every_metric = pytest.mark.parametrize("metric", BOX_METRICS, ids=lambda metric: metric.name)


@every_metric
def test_the_box_itself_beats_all_else_by_exact_values(
    metric: BoxMetric, asking: Asking, square: np.ndarray
):
    found = [metric(asking(metric), each, BOX) for each in (square, ~square)]
    expected = (PERFECT[metric.name], INVERSE[metric.name])
    assert found == pytest.approx(expected, abs=1e-6)
    assert (found[0] > found[1]) == metric.higher_is_better


@every_metric
def test_an_unsure_detector_scores_less_but_deletion_by_odam_is_a_share(
    metric: BoxMetric, asking: Asking, square: np.ndarray
):
    share = 1.0 if metric.name == "deletion (ODAM)" else 0.25
    found = metric(asking(metric, sure=0.25), square, BOX)
    assert found == pytest.approx(share * PERFECT[metric.name], abs=1e-6)


def test_a_box_that_has_moved_counts_by_overlap_or_not_at_all(asking: Asking, square: np.ndarray):
    moved = (7.5, 3.0, 12.5, 7.0)  # overlaps by a third
    drise, odam = (named(f"insertion ({name})", BOX_METRICS) for name in ("D-RISE", "ODAM"))
    assert drise(asking(drise, moved), square, BOX) == pytest.approx(PERFECT[drise.name] / 3)
    assert odam(asking(odam, moved), square, BOX) == 0


def test_odam_takes_as_many_pixels_as_the_box_has():
    seen: list[float] = []

    def score(images: np.ndarray) -> np.ndarray:
        seen.extend((images == 1).mean((1, 2, 3)) * images[0].size)
        return np.ones(len(images))

    image = np.ones((1, 40, 40), np.float32)
    metric = named("insertion (ODAM)", BOX_METRICS)
    rng = np.random.default_rng(0)
    metric(Subject(score, image), rng.random((40, 40)), (-5.0, 10.0, 15.0, 31.0))
    assert seen == pytest.approx(range(30, 301, 30))  # of 15 x 21 pixels within the picture


def test_what_is_not_detected_cannot_be_deleted(asking: Asking, square: np.ndarray):
    metric = named("deletion (ODAM)", BOX_METRICS)
    with pytest.raises(MetricError, match="scores 0"):
        metric(asking(metric, sure=0.0), square, BOX)


@every_metric
def test_a_map_of_another_size_is_refused(metric: BoxMetric, asking: Asking):
    with pytest.raises(MetricError, match="the map has shape"):
        metric(asking(metric), np.zeros((SIDE, SIDE + 1)), BOX)

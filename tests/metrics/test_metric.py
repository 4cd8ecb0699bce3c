"""Intervals by hand and against tables of Student's t."""

from __future__ import annotations

import math
import sys
import warnings

import numpy as np
import pytest

from ibisa_onnx.errors import IbisaError, MissingDependencyError
from ibisa_onnx.metrics import Interval, Metric, Scores

METRIC = Metric("insertion", True, (0.0, 1.0), "as its name says")
OTHER = Metric("deletion", False, (0.0, 1.0), "as its name says")


def scores(*values: float, metric: Metric = METRIC) -> Scores:
    return Scores(metric, np.array(values))


@pytest.mark.parametrize(
    # From a table of Student's t with 1, 2 and 9 degrees of freedom, two-sided.
    ("count", "level", "quantile"),
    [(2, 0.95, 12.706), (3, 0.95, 4.303), (10, 0.95, 2.262), (10, 0.99, 3.250), (3, 0.9, 2.920)],
)
def test_the_interval_is_student_s(count: int, level: float, quantile: float) -> None:
    values = np.random.default_rng(count).random(count)
    interval = Scores(METRIC, values).interval(level)
    assert interval.mean == pytest.approx(values.mean())
    spread = math.sqrt(((values - values.mean()) ** 2).sum() / (count - 1))
    assert interval.half == pytest.approx(quantile * spread / math.sqrt(count), rel=2e-4)


def test_nineteen_of_twenty_intervals_hold_the_truth() -> None:
    draws = np.random.default_rng(0).normal(3.0, 2.0, (1000, 5))
    intervals = [Scores(METRIC, values).interval() for values in draws]
    inside = [interval.low <= 3.0 <= interval.high for interval in intervals]
    assert np.mean(inside) == pytest.approx(0.95, abs=0.02)


def test_one_image_has_no_spread() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        interval = scores(0.4).interval()
    assert interval.mean == 0.4
    assert math.isnan(interval.half)


def test_differences_are_paired() -> None:
    ours, theirs = scores(0.9, 0.5, 0.1), scores(0.8, 0.4, 0.0)
    interval = ours.minus(theirs)
    assert interval.mean == pytest.approx(0.1)
    assert interval.half == pytest.approx(0.0, abs=1e-12)  # every image is better by as much
    assert ours.interval().half > 0.9
    assert theirs.minus(ours).mean == pytest.approx(-0.1)


def test_an_interval_reads_as_in_a_table() -> None:
    assert str(Interval(0.0312, 0.0279)) == "+0.031 ± 0.028"
    assert str(Interval(-0.0312, 0.0279)) == "-0.031 ± 0.028"
    assert f"{Interval(0.0312, 0.0279):.2f}" == "0.03 ± 0.03"
    assert f"{Interval(0.0312, 0.0279):+.2f}" == "+0.03 ± 0.03"
    assert f"{Interval(0.0312, 0.0279)}" == "+0.031 ± 0.028"


def test_the_arrow_points_to_the_better() -> None:
    assert (METRIC.arrow, OTHER.arrow) == ("↑", "↓")


def test_scores_are_a_copy_that_nobody_changes() -> None:
    values = np.array([1.0, 2.0])
    kept = Scores(METRIC, values)
    values[0] = 5
    assert kept.mean == 1.5
    with pytest.raises(ValueError, match="read-only"):
        kept.values[0] = 5


def test_wrong_scores_are_refused() -> None:
    with pytest.raises(IbisaError, match="pass one score for each image"):
        scores()
    with pytest.raises(IbisaError, match="pass one score for each image"):
        Scores(METRIC, np.zeros((2, 2)))
    with pytest.raises(IbisaError, match="image 1 is NaN"):
        scores(0.0, math.nan)
    with pytest.raises(IbisaError, match="2 images cannot be paired with 3"):
        scores(1, 2).minus(scores(1, 2, 3))
    with pytest.raises(IbisaError, match="insertion cannot be compared with deletion"):
        scores(1, 2).minus(scores(1, 2, metric=OTHER))
    with pytest.raises(IbisaError, match=r"level is 95"):
        scores(1, 2).interval(95)


def test_without_scipy_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.stats", None)
    with pytest.raises(MissingDependencyError, match=r"ibisa-onnx\[bench\]"):
        scores(1, 2).interval()

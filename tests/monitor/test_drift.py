"""The statistics, against SciPy and hand-computed values, and the promised rate of false alarms."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ibisa_onnx.monitor.drift import compare, ks_bound, ks_distance, psi


def test_distance_of_hand_computed_samples():
    first, second = np.array([1.0, 2, 3, 4]), np.array([3.0, 4, 5, 6])
    assert ks_distance(first, second) == 0.5
    assert ks_distance(first, first) == 0
    assert ks_distance(first, first + 10) == 1
    assert ks_distance(np.array([0.0, 0, 0, 1]), np.array([0.0, 1, 1, 1])) == 0.5


def test_distance_and_bound_against_scipy():
    stats = pytest.importorskip("scipy.stats", reason="needs the extra [bench]")
    rng = np.random.default_rng(1)
    for n, m, shift in [(30, 30, 0), (50, 200, 0.5), (200, 200, 0.2), (40, 35, 1)]:
        first, second = rng.normal(size=n), rng.normal(shift, size=m)
        expected = stats.ks_2samp(first, second, method="exact")
        assert ks_distance(first, second) == pytest.approx(expected.statistic)
        assert ks_bound(expected.statistic, n, m) >= expected.pvalue


def test_stability_index_of_hand_computed_windows():
    reference = np.repeat([0.0, 1.0], 50)
    recent = np.repeat([0.0, 1.0], [20, 80])
    expected = (0.2 - 0.5) * math.log(0.2 / 0.5) + (0.8 - 0.5) * math.log(0.8 / 0.5)
    assert psi(reference, recent) == pytest.approx(expected)
    assert psi(reference, reference) == 0


def test_stability_index_sees_what_leaves_a_constant_reference_on_either_side():
    reference = np.full(100, 0.5)
    for value in (0.4, 0.6):
        assert psi(reference, np.full(100, value)) > 5
    assert psi(reference, np.full(50, 0.5)) < 0.05


def test_missing_values_are_counted_and_never_averaged():
    found = compare([0.2, None, 0.4], [None, None], minimum=10, level=0.01)
    assert (found.reference.count, found.reference.missing) == (2, 1)
    assert found.reference.mean == pytest.approx(0.3)
    assert (found.recent.count, found.recent.missing, found.recent.mean) == (0, 2, None)
    assert (found.distance, found.p_value, found.psi, found.drifted) == (None, None, None, False)


def test_no_alarm_before_the_minimum_and_one_right_after():
    before, after = [0.0] * 30, [1.0] * 30
    assert not compare(before, after[:29], minimum=30, level=0.01).drifted
    assert not compare(before, [*after[:29], *[None] * 50], minimum=30, level=0.01).drifted
    assert compare(before, after, minimum=30, level=0.01).drifted


@pytest.mark.parametrize("kind", ["continuous", "rare", "ties"])
def test_false_alarms_are_as_rare_as_promised(kind):
    draw = {
        "continuous": lambda rng: rng.random(60),
        "rare": lambda rng: (rng.random(60) < 0.1).astype(float),
        "ties": lambda rng: rng.integers(0, 5, 60).astype(float),
    }[kind]
    rng = np.random.default_rng(7)
    level, trials = 0.05, 2000
    alarms = sum(
        compare(list(draw(rng)), list(draw(rng)), minimum=30, level=level).drifted
        for _ in range(trials)
    )
    spread = math.sqrt(level * (1 - level) / trials)
    assert alarms / trials < level + 3 * spread
    if kind == "continuous":  # and the level is used, not just kept
        assert alarms / trials > level / 4

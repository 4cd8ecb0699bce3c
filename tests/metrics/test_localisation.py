"""Exact values of every localisation metric for a perfect, an inverse, a constant map and more."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from ibisa_onnx.errors import IbisaError
from ibisa_onnx.metrics import (
    BOX_RATIO,
    EHR,
    ENERGY,
    LOCALISATION,
    POINTING_GAME,
    LocalisationMetric,
    box_region,
    effective_heat_ratio,
    pointing_game,
)

SHAPE = (40, 50)
BOX = box_region((20, 10, 30, 30), SHAPE)
SHARE = BOX.mean()  # 200 of 2000 pixels

every_metric = pytest.mark.parametrize("metric", LOCALISATION, ids=lambda metric: metric.name)


@every_metric
def test_the_perfect_map_has_all_of_it(metric: LocalisationMetric) -> None:
    assert metric(BOX, BOX) == 1
    assert metric(BOX * np.float32(1e-30), BOX) == pytest.approx(1)
    assert metric(BOX.astype(np.uint8) * 255, BOX) == 1


@pytest.mark.parametrize("metric", [pointing_game(0), ENERGY, BOX_RATIO, EHR])
def test_the_inverse_map_has_none_of_it(metric: LocalisationMetric) -> None:
    assert metric(~BOX, BOX) == 0
    assert metric((~BOX).astype(np.uint8) * 255, BOX) == 0


def test_a_constant_map_has_the_object_s_share() -> None:
    flat = np.full(SHAPE, 0.3)
    assert ENERGY(flat, BOX) == pytest.approx(SHARE)
    assert EHR(flat, BOX) == pytest.approx(SHARE)
    # Ties go by position: the first 200 pixels are the four upper rows, the first is the corner.
    assert BOX_RATIO(flat, BOX) == 0
    assert BOX_RATIO(flat, box_region((0, 0, 50, 4), SHAPE)) == 1
    assert pointing_game(0)(flat, box_region((0, 0, 1, 1), SHAPE)) == 1
    assert pointing_game(0)(flat, box_region((1, 0, 2, 1), SHAPE)) == 0


def test_random_maps_have_the_object_s_share() -> None:
    rng = np.random.default_rng(0)
    maps = rng.random((300, *SHAPE))
    for metric in (ENERGY, BOX_RATIO, pointing_game(0)):
        found = np.mean([metric(each, BOX) for each in maps])
        assert found == pytest.approx(SHARE, abs=0.05 if metric.name == "pointing game" else 0.005)


@every_metric
def test_a_map_without_anything_points_nowhere(metric: LocalisationMetric) -> None:
    assert metric(np.zeros(SHAPE), BOX & box_region((25, 29, 30, 30), SHAPE)) == 0
    assert metric.higher_is_better
    assert metric.limits == (0, 1)
    assert metric.description


@pytest.mark.parametrize(
    ("row", "column", "distance"),
    [(15, 25, 0), (10, 20, 0), (29, 29, 0), (9, 20, 1), (30, 25, 1), (5, 32, math.hypot(5, 3))],
)
def test_the_peak_may_be_so_far_away(row: int, column: int, distance: float) -> None:
    saliency = np.random.default_rng(1).random(SHAPE)
    saliency[row, column] = 2
    if distance:
        assert pointing_game(distance * 0.999)(saliency, BOX) == 0
    assert pointing_game(distance)(saliency, BOX) == 1


def test_the_usual_tolerance_is_fifteen_pixels() -> None:
    for column, hit in ((5, 1), (4, 0)):
        saliency = np.zeros(SHAPE)
        saliency[20, column] = 1
        assert POINTING_GAME(saliency, BOX) == hit


def test_energy_is_a_share_of_what_is_positive() -> None:
    saliency = np.zeros(SHAPE)
    saliency[15, 25], saliency[0, 0], saliency[0, 1], saliency[16, 25] = 3, 1, -7, -7
    assert ENERGY(saliency, BOX) == pytest.approx(0.75)
    assert ENERGY(np.full(SHAPE, 1e308), BOX) == pytest.approx(SHARE)  # a sum past all floats
    assert ENERGY(-np.ones(SHAPE), BOX) == 0
    assert EHR(-np.ones(SHAPE), BOX) == 0


def test_the_box_ratio_counts_as_many_pixels_as_the_box_has() -> None:
    saliency = np.zeros(SHAPE)
    saliency[10:20, 20:30] = 2  # 100 pixels of the box
    saliency[30:40, 0:20] = 1  # and 200 that are not of it
    assert BOX_RATIO(saliency, BOX) == 0.5
    saliency[30:40, 0:20] = 3
    assert BOX_RATIO(saliency, BOX) == 0


def test_the_heat_ratio_by_hand() -> None:
    # Of ten pixels the object has those of 1 and 0.5; those below a tenth do not count.
    saliency = np.array([[1.0, 0.8, 0.5, 0.2, 0.05, 0, 0, 0, 0, 0]])
    region = np.array([[1, 0, 1, 0, 0, 0, 0, 0, 0, 0]], bool)
    # Quantiles of 0.2, 0.5, 0.8, 1 at 0, 0.1 .. 1: 0.2, .29, .38, .47, .56, .65, .74, .82 ..
    first = (1 + 0.5) / 4  # all four are as hot as 0.2
    three = (1 + 0.5) / 3  # at 0.29, 0.38, 0.47
    two = 1 / 2  # at 0.56, 0.65, 0.74
    one = 1.0  # at 0.82, 0.88, 0.94 and 0.99
    ratios = [first, three, three, three, two, two, two, one, one, one, one]
    expected = sum((a + b) / 2 for a, b in itertools.pairwise(ratios)) / 10
    assert EHR(saliency, region) == pytest.approx(expected)
    assert EHR(saliency * 40, region) == pytest.approx(expected)
    assert effective_heat_ratio(0.6)(saliency, region) != pytest.approx(expected)


@every_metric
@pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.float16, np.float32, np.float64])
def test_bytes_are_worth_what_other_numbers_are(metric: LocalisationMetric, dtype: type) -> None:
    saliency = np.random.default_rng(2).integers(0, 256, SHAPE, np.uint8)
    assert metric(saliency.astype(dtype), BOX) == metric(saliency, BOX)


@pytest.mark.parametrize("metric", [ENERGY, BOX_RATIO, EHR])
def test_places_do_not_matter(metric: LocalisationMetric) -> None:
    rng = np.random.default_rng(3)
    saliency, order = rng.random(SHAPE), rng.permutation(BOX.size)
    moved, there = (each.ravel()[order].reshape(SHAPE) for each in (saliency, BOX))
    assert metric(moved, there) == pytest.approx(metric(saliency, BOX), abs=1e-12)


@pytest.mark.parametrize("metric", [BOX_RATIO, POINTING_GAME])
def test_only_ranks_matter_where_pixels_are_ranked(metric: LocalisationMetric) -> None:
    saliency = np.random.default_rng(4).normal(size=SHAPE) + BOX
    assert metric(np.exp(saliency), BOX) == metric(saliency, BOX)


@every_metric
def test_what_cannot_be_measured_is_refused(metric: LocalisationMetric) -> None:
    saliency = np.ones(SHAPE)
    with pytest.raises(IbisaError, match="empty"):
        metric(saliency, np.zeros(SHAPE, bool))
    with pytest.raises(IbisaError, match="covers the whole image"):
        metric(saliency, np.ones(SHAPE, bool))
    with pytest.raises(IbisaError, match="the region has shape"):
        metric(saliency, BOX[:-1])
    with pytest.raises(IbisaError, match="NaN"):
        metric(saliency * np.nan, BOX)


def test_wrong_wishes_are_refused() -> None:
    with pytest.raises(IbisaError, match="tolerance is -1"):
        pointing_game(-1)
    with pytest.raises(IbisaError, match="threshold is 1"):
        effective_heat_ratio(1)

"""Maps are ranked in one way, whatever their type; regions are what they say."""

from __future__ import annotations

import numpy as np
import pytest

from ibisa_onnx.errors import IbisaError
from ibisa_onnx.metrics.maps import (
    box_region,
    checked_map,
    checked_region,
    falling_order,
    ranks,
    stretched,
)


def in_a_loop(values: np.ndarray) -> list[int]:
    return sorted(range(values.size), key=lambda place: (-float(values.flat[place]), place))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int8, np.uint16, np.float16, np.float32])
def test_order_falls_and_ties_go_by_position(seed: int, dtype: type) -> None:
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 2 if dtype is bool else 6, (9, 7)).astype(dtype)
    order = falling_order(checked_map(values))
    assert order.tolist() == in_a_loop(values)
    assert [order[rank] for rank in ranks(order)] == list(range(values.size))


def test_large_bytes_come_first() -> None:
    values = np.array([[0, 128, 255], [1, 127, 254]], np.uint8)
    assert falling_order(checked_map(values)).tolist() == [2, 5, 1, 4, 3, 0]


def test_a_map_is_stretched_to_the_unit_range() -> None:
    values = np.array([[-2.0, 0.0], [1.0, 2.0]])
    np.testing.assert_allclose(stretched(values), [[0, 0.5], [0.75, 1]])
    np.testing.assert_array_equal(stretched(np.full((2, 2), 3.0)), 0)
    largest = np.finfo(np.float64).max
    np.testing.assert_allclose(stretched(values * (largest / 2)), [[0, 0.5], [0.75, 1]])


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (np.zeros((2, 3)), "the map has shape"),
        (np.zeros(4), "one value per pixel"),
        (np.zeros((1, 2, 2)), "one value per pixel"),
        (np.zeros((0, 2)), "one value per pixel"),
        (np.array([[0, np.nan], [0, 0]]), "NaN"),
        (np.array([[0, np.inf], [0, 0]]), "infinite"),
        (np.zeros((2, 2), complex), "complex128"),
        (np.array([["a", "b"], ["c", "d"]]), "real numbers"),
    ],
)
def test_maps_without_sense_are_refused(values: np.ndarray, says: str) -> None:
    with pytest.raises(IbisaError, match=says) as error:
        checked_map(values, (2, 2))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("region", "says"),
    [
        (np.zeros((2, 2), bool), "empty"),
        (np.ones((2, 2), bool), "covers the whole image"),
        (np.ones((2, 3), bool), "the region has shape"),
        (np.full((2, 2), 0.5), "booleans"),
    ],
)
def test_regions_without_sense_are_refused(region: np.ndarray, says: str) -> None:
    with pytest.raises(IbisaError, match=says) as error:
        checked_region(region, (2, 2))
    assert "\n" not in str(error.value)


def test_a_box_holds_the_pixels_whose_centres_it_holds() -> None:
    expected = np.zeros((5, 6), bool)
    expected[1:3, 2:6] = True
    np.testing.assert_array_equal(box_region((2, 1, 6, 3), (5, 6)), expected)
    np.testing.assert_array_equal(box_region((1.6, 0.6, 99, 2.6), (5, 6)), expected)
    np.testing.assert_array_equal(box_region((2.5, 1.5, 5.6, 2.6), (5, 6)), expected)
    expected[2] = expected[:, 5] = False
    np.testing.assert_array_equal(box_region((2.5, 1.5, 5.5, 2.5), (5, 6)), expected)


@pytest.mark.parametrize(
    ("box", "says"),
    [
        ((3, 0, 3, 2), "x0 < x1"),
        ((0, 2, 3, 1), "y0 < y1"),
        ((0, 0, np.nan, 1), "x0 < x1"),
        ((0, 0, np.inf, 1), "x0 < x1"),
        ((10, 10, 12, 12), "no pixel"),
        ((0.6, 0.6, 1.4, 1.4), "no pixel"),
    ],
)
def test_boxes_without_sense_are_refused(box: tuple[float, ...], says: str) -> None:
    with pytest.raises(IbisaError, match=says):
        box_region(box, (5, 6))  # type: ignore[arg-type]

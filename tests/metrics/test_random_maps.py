"""Random maps have the values and the roughness of a map, and nothing of its places."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from ibisa_onnx.metrics import smooth_random, spearman

NOISE = np.random.default_rng(0).standard_normal((48, 64))


def roughness(map: np.ndarray) -> float:
    """The mean square difference of neighbours, for a map of unit variance."""
    steps = [np.diff(map, axis=axis) for axis in (0, 1)]
    return float(np.mean([np.mean(each**2) for each in steps]) / map.var())


@pytest.mark.parametrize("sigma", [0.5, 1.5, 4])
def test_it_is_as_rough_as_the_map(sigma: float) -> None:
    map = cv2.GaussianBlur(NOISE, (0, 0), sigma)
    drawn = [smooth_random(map, np.random.default_rng(seed)) for seed in range(5)]
    assert np.mean([roughness(each) for each in drawn]) == pytest.approx(roughness(map), rel=0.35)
    white = np.random.default_rng(1).permutation(map.ravel()).reshape(map.shape)
    assert roughness(drawn[0]) < roughness(white) * (0.9 if sigma < 1 else 0.5)


def test_it_has_the_values_of_the_map() -> None:
    map = np.zeros((20, 30))
    map[5:9, 10:15] = np.random.default_rng(2).random((4, 5))
    drawn = smooth_random(map, np.random.default_rng(0))
    np.testing.assert_array_equal(np.sort(drawn, axis=None), np.sort(map, axis=None))


def test_places_are_random_and_the_seed_decides() -> None:
    map = cv2.GaussianBlur(NOISE, (0, 0), 2)
    drawn = [smooth_random(map, np.random.default_rng(seed)) for seed in range(20)]
    assert abs(np.mean([spearman(map, each) for each in drawn])) < 0.1
    np.testing.assert_array_equal(drawn[3], smooth_random(map, np.random.default_rng(3)))
    assert abs(spearman(drawn[0], drawn[1])) < 0.4


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (2, 2), (7, 1)])
def test_small_and_constant_maps_have_one(shape: tuple[int, int]) -> None:
    constant = np.full(shape, 3.0)
    np.testing.assert_array_equal(smooth_random(constant, np.random.default_rng(0)), constant)
    ramp = np.arange(constant.size).reshape(shape)
    drawn = smooth_random(ramp, np.random.default_rng(0))
    assert sorted(drawn.ravel()) == sorted(ramp.ravel())

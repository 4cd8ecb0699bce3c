"""RISE finds planted weights, and is the average that its paper writes down."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from ibisa_onnx.methods.rise import rise

SIDE = 32


@pytest.fixture(scope="module")
def weights() -> np.ndarray:
    """Two blobs, as wide as a cell of RISE's grid."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    blobs = [
        strength * np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / 32)
        for row, column, strength in ((9, 8, 1.0), (22, 25, 0.6))
    ]
    return np.sum(blobs, 0)


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return np.ones((3, SIDE, SIDE), np.float32)


def linear(weights: np.ndarray):
    return lambda images: np.einsum("nchw,hw->n", images, weights) / weights.sum()


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1])


def test_centred_rise_finds_planted_weights(weights: np.ndarray, image: np.ndarray) -> None:
    found = rise(
        linear(weights), image, rng=np.random.default_rng(0), masks=600, grid=7, centred=True
    )
    assert found.shape == (SIDE, SIDE)
    assert found.dtype == np.float32
    assert correlation(found, weights) > 0.9
    assert weights[np.unravel_index(found.argmax(), found.shape)] > 0.8


def test_centring_takes_out_most_of_the_noise(weights: np.ndarray, image: np.ndarray) -> None:
    def quality(centred: bool) -> float:
        maps = [
            rise(linear(weights), image, rng=np.random.default_rng(s), masks=100, centred=centred)
            for s in range(5)
        ]
        return float(np.mean([correlation(each, weights) for each in maps]))

    assert quality(centred=True) > quality(centred=False) + 0.2


@pytest.mark.parametrize("centred", [False, True])
def test_the_batch_changes_nothing(weights: np.ndarray, image: np.ndarray, centred: bool) -> None:
    # Scored one by one, so that the score itself cannot depend on the batch.
    def alone(images: np.ndarray) -> np.ndarray:
        return np.array([float((one[0] * weights).sum()) for one in images])

    maps = [
        rise(alone, image, rng=np.random.default_rng(3), masks=50, batch=batch, centred=centred)
        for batch in (1, 8, 64)
    ]
    np.testing.assert_array_equal(maps[0], maps[1])
    np.testing.assert_array_equal(maps[0], maps[2])


def test_seeds(weights: np.ndarray, image: np.ndarray) -> None:
    one, same, other = (
        rise(linear(weights), image, rng=np.random.default_rng(seed), masks=20)
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


def test_no_more_than_a_batch_at_once(image: np.ndarray) -> None:
    sizes: list[int] = []

    def count(images: np.ndarray) -> np.ndarray:
        sizes.append(len(images))
        return np.ones(len(images))

    rise(count, image, rng=np.random.default_rng(0), masks=20, batch=8)
    assert sizes == [8, 8, 4]


class EveryMask:
    """In the place of a generator: each of the 16 binary 2 x 2 grids once, never shifted."""

    def __init__(self) -> None:
        self.grids = itertools.product((0.0, 1.0), repeat=4)

    def random(self, shape: tuple[int, int]) -> np.ndarray:
        return 1 - np.array(next(self.grids)).reshape(shape)  # a draw below `keep` keeps

    def integers(self, high: int) -> int:
        assert high == 1  # a cell is one pixel
        return 0


@pytest.mark.parametrize("centred", [False, True])
def test_equation_six_by_enumeration(centred: bool) -> None:
    image = np.array([[[1.0, 2.0], [3.0, 4.0]]], np.float32)
    # Two cells across three pixels, of which the first two are kept: the first cell, then the mean.
    enlarge = np.array([[1.0, 0.0], [0.5, 0.5]])
    expected, score_sum, mask_sum = np.zeros((2, 2)), 0.0, np.zeros((2, 2))
    for values in itertools.product((0, 1), repeat=4):
        mask = enlarge @ np.reshape(values, (2, 2)) @ enlarge.T
        score = float((mask * image[0]).sum()) ** 2
        expected += score * mask
        score_sum += score
        mask_sum += mask
    expected = expected / 16 / 0.5
    if centred:
        expected -= mask_sum / 16 * score_sum / 16 / 0.5
    found = rise(
        lambda images: images.sum((1, 2, 3)) ** 2,
        image,
        rng=EveryMask(),
        masks=16,
        grid=2,
        keep=0.5,
        centred=centred,
    )
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_masks_keep_the_share_asked_for(image: np.ndarray) -> None:
    shares: list[float] = []

    def note(images: np.ndarray) -> np.ndarray:
        shares.extend(images.mean((1, 2, 3)))
        return np.ones(len(images))

    rise(note, image, rng=np.random.default_rng(0), masks=300, keep=0.3)
    assert np.mean(shares) == pytest.approx(0.3, abs=0.02)


def test_masked_pixels_are_zero_in_model_space_and_channels_go_together() -> None:
    image = np.full((3, SIDE, SIDE), 2.0, np.float32)
    image[1] = -5

    def look(images: np.ndarray) -> np.ndarray:
        assert np.all((images[:, 0] >= 0) & (images[:, 0] <= 2))
        np.testing.assert_allclose(images[:, 1], images[:, 0] * -2.5, atol=1e-6)
        return images[:, 0].max((1, 2))

    assert rise(look, image, rng=np.random.default_rng(0), masks=10).max() > 0

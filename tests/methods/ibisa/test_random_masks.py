"""Smooth masks: the same whatever the batch, fair to every pixel, and nearly on or off."""

from __future__ import annotations

import numpy as np
import pytest

from ibisa_onnx.methods.ibisa.random_masks import smooth_masks


def draw(count: int, size: tuple[int, int], batch: int, seed: int = 0) -> list[np.ndarray]:
    return list(smooth_masks(np.random.default_rng(seed), count, size, batch))


@pytest.mark.parametrize("size", [(40, 40), (17, 60), (64, 9), (5, 3), (1, 1)])
def test_any_size(size: tuple[int, int]) -> None:
    blocks = draw(5, size, 2)
    assert [tuple(each.shape) for each in blocks] == [(2, 1, *size), (2, 1, *size), (1, 1, *size)]
    masks = np.concatenate(blocks)
    assert masks.dtype == np.float32
    assert np.isfinite(masks).all()
    assert masks.min() >= 0
    assert masks.max() <= 1


def test_the_batch_changes_nothing() -> None:
    whole = np.concatenate(draw(10, (30, 40), 10))
    for batch in (1, 3):
        np.testing.assert_array_equal(np.concatenate(draw(10, (30, 40), batch)), whole)


def test_every_pixel_is_shown_half_of_the_time_and_the_complement_as_often() -> None:
    masks = np.concatenate(draw(1500, (24, 32), 500))
    by_pixel = masks.mean((0, 1))
    assert np.abs(by_pixel - 0.5).max() < 0.06
    spread, mirrored = (np.quantile(m[:, 0, ::5, ::5], 0.2) for m in (masks, 1 - masks))
    assert abs(spread - mirrored) < 0.02


def test_masks_are_smooth_and_nearly_on_or_off() -> None:
    masks = np.concatenate(draw(100, (64, 64), 100))
    extreme = (masks < 0.2) | (masks > 0.8)
    assert extreme.mean() > 0.5
    shuffled = np.random.default_rng(0).permutation(masks.ravel()).reshape(masks.shape)
    steps, random_steps = (np.abs(np.diff(each, axis=3)).mean() for each in (masks, shuffled))
    assert steps < 0.25 * random_steps

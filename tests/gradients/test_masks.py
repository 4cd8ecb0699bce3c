"""Smooth masks: the same whatever the batch, fair to every pixel, and nearly on or off."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ibisa_onnx.gradients.masks import smooth_masks


def draw(count: int, size: tuple[int, int], batch: int, seed: int = 0) -> list[torch.Tensor]:
    return list(smooth_masks(np.random.default_rng(seed), count, size, batch))


@pytest.mark.parametrize("size", [(40, 40), (17, 60), (64, 9), (5, 3), (1, 1)])
def test_any_size(size: tuple[int, int]) -> None:
    blocks = draw(5, size, 2)
    assert [tuple(each.shape) for each in blocks] == [(2, 1, *size), (2, 1, *size), (1, 1, *size)]
    masks = torch.cat(blocks)
    assert masks.dtype == torch.float32
    assert torch.isfinite(masks).all()
    assert masks.min() >= 0
    assert masks.max() <= 1


def test_the_batch_changes_nothing() -> None:
    whole = torch.cat(draw(10, (30, 40), 10))
    for batch in (1, 3):
        torch.testing.assert_close(torch.cat(draw(10, (30, 40), batch)), whole, rtol=0, atol=0)


def test_every_pixel_is_shown_half_of_the_time_and_the_complement_as_often() -> None:
    masks = torch.cat(draw(1500, (24, 32), 500))
    by_pixel = masks.mean((0, 1))
    assert float((by_pixel - 0.5).abs().max()) < 0.06
    spread, mirrored = (
        torch.quantile(m[:, 0, ::5, ::5].flatten(), 0.2) for m in (masks, 1 - masks)
    )
    assert float(abs(spread - mirrored)) < 0.02


def test_masks_are_smooth_and_nearly_on_or_off() -> None:
    masks = torch.cat(draw(100, (64, 64), 100))
    extreme = (masks < 0.2) | (masks > 0.8)
    assert float(extreme.float().mean()) > 0.5
    shuffled = masks.flatten()[
        torch.randperm(masks.numel(), generator=torch.Generator().manual_seed(0))
    ].reshape(masks.shape)
    assert masks.diff(dim=3).abs().mean() < 0.25 * shuffled.diff(dim=3).abs().mean()

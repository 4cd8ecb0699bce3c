"""Masks, their noise and what they let through, held against the definitions and PyTorch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ibisa_onnx.gradients.masked_images import MaskedImages, enlarge
from ibisa_onnx.methods.masking import (
    grid_shape,
    plane_waves,
    sample,
    smooth,
)

SIGMAS = [0.3, 1.0, 2.5, 8.0, 40.0]
GRIDS = [(1, 1), (4, 6), (12, 18), (30, 5)]
"""Of masks; the third is as fine as the image, the last finer on one side."""


@pytest.fixture
def field() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(2, 1, 9, 14))


@pytest.mark.parametrize("sigma", SIGMAS)
def test_smoothing_leaves_constants_alone(sigma: float) -> None:
    constant = np.full((1, 1, 7, 11), 3.25, np.float32)
    np.testing.assert_allclose(smooth(constant, sigma), constant, rtol=1e-6)


@pytest.mark.parametrize("sigma", SIGMAS)
def test_smoothing_is_self_adjoint(field: np.ndarray, sigma: float) -> None:
    one, other = field
    left, right = (one * smooth(other, sigma)).sum(), (smooth(one, sigma) * other).sum()
    # Both tails of the Gaussian are cut somewhere, which is not the same for every cell.
    np.testing.assert_allclose(left, right, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("sigma", SIGMAS)
def test_smoothing_is_a_convolution_of_the_mirrored_field_and_its_own_derivative(
    field: np.ndarray, sigma: float, torch_smooth: Callable[..., torch.Tensor]
) -> None:
    logits, cotangent = torch.tensor(field[0], requires_grad=True), field[1]
    smoothed = torch_smooth(logits, sigma)
    # A cut tail is allowed.
    np.testing.assert_allclose(smooth(field[0], sigma), smoothed.detach(), atol=1e-4)
    smoothed.backward(torch.from_numpy(cotangent))
    np.testing.assert_allclose(smooth(cotangent, sigma), logits.grad, atol=1e-4)


@pytest.mark.parametrize("sigma", SIGMAS)
def test_smoothing_keeps_the_mass_of_every_cell(sigma: float) -> None:
    spread = smooth(np.eye(6 * 5).reshape(30, 1, 6, 5), sigma)
    np.testing.assert_allclose(spread.sum((1, 2, 3)), 1, rtol=2e-6)
    assert (spread >= 0).all()


def test_away_from_borders_smoothing_is_a_gaussian() -> None:
    point = np.zeros((31, 31))
    point[15, 15] = 1
    weights = np.exp(-(np.arange(-15, 16) ** 2) / (2 * 1.5**2))
    weights /= weights.sum()
    # A cut tail is allowed, another width is not.
    np.testing.assert_allclose(smooth(point, 1.5), np.outer(weights, weights), atol=2e-3)


def test_far_tails_are_cut_before_they_are_denormal() -> None:
    point = np.zeros((1, 400), np.float32)
    point[..., 200] = 1
    spread = smooth(point, 10)
    assert spread[spread > 0].min() > 1e-20
    assert (spread > 0).sum() > 8 * 10  # four standard deviations on each side


def test_smoothing_by_nothing_is_nothing(field: np.ndarray) -> None:
    np.testing.assert_array_equal(smooth(field, 0), field)


@pytest.mark.parametrize(
    ("height", "width", "cells", "shape"),
    [
        (224, 224, 56, (56, 56)),
        (240, 320, 56, (42, 56)),
        (320, 240, 56, (56, 42)),
        (28, 28, 56, (28, 28)),
        (1000, 3, 56, (56, 1)),
        (1, 1, 56, (1, 1)),
    ],
)
def test_the_grid_has_square_cells_never_under_a_pixel(
    height: int, width: int, cells: int, shape: tuple[int, int]
) -> None:
    assert grid_shape(height, width, cells) == shape


@pytest.fixture
def masked() -> MaskedImages:
    return MaskedImages(*np.random.default_rng(1).normal(size=(2, 1, 3, 12, 18)).astype(np.float32))


def test_all_or_nothing_comes_through(masked: MaskedImages) -> None:
    assert masked.size == (12, 18)
    for grid in GRIDS:
        mask = np.ones((1, 1, *grid), np.float32)
        np.testing.assert_array_equal(masked.through(mask), masked.images)
        np.testing.assert_array_equal(masked.through(0 * mask), masked.baselines)


def test_several_masks_give_several_images_channels_alike(masked: MaskedImages) -> None:
    masks = np.random.default_rng(0).random((5, 1, 12, 18), np.float32)
    found = masked.through(masks)
    assert (found.shape, found.dtype) == ((5, 3, 12, 18), np.float32)
    share = (found - masked.baselines) / (masked.images - masked.baselines)
    np.testing.assert_allclose(share, np.repeat(masks, 3, 1), rtol=1e-3, atol=1e-3)


def test_half_a_mask_shows_its_own_half(masked: MaskedImages) -> None:
    mask = np.zeros((1, 1, 4, 6), np.float32)
    mask[..., :3] = 1
    found = masked.through(mask)
    np.testing.assert_allclose(found[..., :7], masked.images[..., :7], rtol=1e-6)
    np.testing.assert_allclose(found[..., 11:], masked.baselines[..., 11:], rtol=1e-6)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("batch", [1, 3])
def test_the_vector_jacobian_product_is_the_adjoint_of_letting_through(
    masked: MaskedImages, grid: tuple[int, int], batch: int
) -> None:
    """In z = b + A m, A is what `through` does to a mask, and `vjp` is its transpose."""
    rng = np.random.default_rng(2)
    masks = rng.normal(size=(batch, 1, *grid)).astype(np.float32)
    cotangent = rng.normal(size=(batch, 3, 12, 18)).astype(np.float32)
    pulled = masked.vjp(cotangent, grid)
    assert (pulled.shape, pulled.dtype) == (masks.shape, np.float32)
    let_through = masked.through(masks) - masked.baselines
    for one in range(batch):
        left, right = (let_through * cotangent)[one].sum(), (masks * pulled)[one].sum()
        assert left == pytest.approx(right, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("size", [(60, 80), (17, 31), (6, 8), (3, 20), (1, 1)])
def test_enlarging_is_torchs_bilinear_interpolation(size: tuple[int, int]) -> None:
    masks = np.random.default_rng(3).random((2, 1, 6, 8), np.float32)
    expected = F.interpolate(torch.from_numpy(masks), size, mode="bilinear")
    np.testing.assert_allclose(enlarge(masks, size), expected, atol=1e-6)
    np.testing.assert_allclose(enlarge(masks.astype(float), size), expected, atol=1e-6)


def test_enlarging_keeps_mean_and_range() -> None:
    mask = np.random.default_rng(1).random((1, 1, 6, 8), np.float32)
    large = enlarge(mask, (60, 80))
    assert large.shape == (1, 1, 60, 80)
    assert large.mean() == pytest.approx(mask.mean(), abs=0.01)
    assert mask.min() - 1e-6 <= large.min() <= large.max() <= mask.max() + 1e-6


@pytest.mark.parametrize("draws", [1, 5, 10])
def test_waves_have_a_draw_a_step_and_come_in_pairs(draws: int) -> None:
    waves = plane_waves(draws, (12, 16), 2.0)
    assert waves.shape == (draws, 12, 16)
    assert waves.dtype == np.float32
    np.testing.assert_array_equal(waves[1::2], -waves[0::2][: draws // 2])


def test_waves_have_unit_variance_and_tell_different_things() -> None:
    waves = plane_waves(10, (56, 56), 2.0)[0::2].reshape(5, -1)
    np.testing.assert_allclose((waves**2).mean(1), 1, atol=0.15)
    between = np.corrcoef(waves) - np.eye(5)
    assert np.abs(between).max() < 0.35


def test_waves_exist_on_a_single_cell() -> None:
    assert np.isfinite(plane_waves(4, (1, 1), 2.0)).all()


@pytest.mark.parametrize("keep", [0.02, 0.3, 0.5, 0.88])
def test_cold_samples_are_bernoulli(keep: float) -> None:
    logits = np.full((60, 60), logit(keep), np.float32)
    noise = np.random.default_rng(0).logistic(size=(20, 60, 60)).astype(np.float32)
    masks = sample(logits, noise, 1e-3)
    assert masks.shape == noise.shape
    decided = (masks < 0.01) | (masks > 0.99)
    assert decided.mean() > 0.98
    assert masks.mean() == pytest.approx(keep, abs=0.01)


def logit(share: np.ndarray | float) -> np.ndarray:
    return np.log(share) - np.log1p(-np.asarray(share))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_samples_are_the_relaxed_bernoulli_formula(temperature: float) -> None:
    keep, noise = np.array([0.1, 0.5, 0.9]), np.array([-1.0, 0.0, 2.5])
    odds = keep / (1 - keep) * np.exp(noise)
    expected = odds ** (1 / temperature) / (1 + odds ** (1 / temperature))
    np.testing.assert_allclose(sample(logit(keep), noise, temperature), expected, rtol=1e-12)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_the_derivative_of_a_sample_is_the_one_that_is_said(temperature: float) -> None:
    logits, noise = np.linspace(-6, 6, 13), np.linspace(1, -2, 13)
    mask = sample(logits, noise, temperature)
    up, down = (sample(logits + step, noise, temperature) for step in (1e-5, -1e-5))
    np.testing.assert_allclose(mask * (1 - mask) / temperature, (up - down) / 2e-5, rtol=1e-6)


def test_without_noise_at_temperature_one_a_sample_is_its_probability() -> None:
    logits = np.linspace(-5, 5, 12, dtype=np.float32).reshape(3, 4)
    found = sample(logits, np.zeros_like(logits), 1.0)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, torch.sigmoid(torch.from_numpy(logits)), rtol=1e-6)


@pytest.mark.parametrize("value", [-1e30, -200.0, 200.0, 1e30])
def test_certain_cells_are_quietly_all_or_nothing(value: float) -> None:
    logits = np.full((2, 2), value, np.float32)
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        masks = sample(logits, np.zeros((2, 2), np.float32), 0.5)
    np.testing.assert_array_equal(masks, float(value > 0))


def test_a_gaussian_wider_than_the_field_gives_its_mean(rng):
    field = rng.standard_normal((2, 5, 7))
    for sigma in (14, 1e20):
        expected = np.broadcast_to(field.mean((-2, -1), keepdims=True), field.shape)
        np.testing.assert_allclose(smooth(field, sigma), expected, atol=3e-5)

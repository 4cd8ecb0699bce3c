"""Masks, their noise and what they let through, held against the definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ibisa_onnx.bottleneck import (
    Bottleneck,
    blurred,
    enlarge,
    grid_shape,
    plane_waves,
    sample,
    smooth,
    stratified_noise,
)

SIGMAS = [0.3, 1.0, 2.5, 8.0, 40.0]


@pytest.fixture
def field() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).normal(size=(2, 1, 9, 14)))


def logistic(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-values))


@pytest.mark.parametrize("sigma", SIGMAS)
def test_smoothing_leaves_constants_alone(sigma: float) -> None:
    constant = torch.full((1, 1, 7, 11), 3.25)
    torch.testing.assert_close(smooth(constant, sigma), constant)


@pytest.mark.parametrize("sigma", SIGMAS)
def test_smoothing_is_self_adjoint(field: torch.Tensor, sigma: float) -> None:
    one, other = field[:1], field[1:]
    left = (one * smooth(other, sigma)).sum()
    # Both tails of the Gaussian are cut somewhere, which is not the same for every cell.
    torch.testing.assert_close(left, (smooth(one, sigma) * other).sum(), rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("sigma", SIGMAS)
def test_smoothing_keeps_the_mass_of_every_cell(sigma: float) -> None:
    points = torch.eye(6 * 5, dtype=torch.float64).reshape(30, 1, 6, 5)
    spread = smooth(points, sigma)
    torch.testing.assert_close(spread.sum((1, 2, 3)), torch.ones(30).double(), rtol=2e-6, atol=0)
    assert (spread >= 0).all()


def test_away_from_borders_smoothing_is_a_gaussian() -> None:
    point = torch.zeros(1, 1, 31, 31, dtype=torch.float64)
    point[0, 0, 15, 15] = 1
    weights = np.exp(-(np.arange(-15, 16) ** 2) / (2 * 1.5**2))
    weights /= weights.sum()
    # A cut tail is allowed, another width is not.
    np.testing.assert_allclose(smooth(point, 1.5)[0, 0], np.outer(weights, weights), atol=2e-3)


def test_far_tails_are_cut_before_they_are_denormal() -> None:
    point = torch.zeros(1, 1, 1, 400)
    point[..., 200] = 1
    spread = smooth(point, 10)
    assert float(spread[spread > 0].min()) > 1e-20
    assert int((spread > 0).sum()) > 8 * 10  # four standard deviations on each side


def test_smoothing_by_nothing_is_nothing(field: torch.Tensor) -> None:
    torch.testing.assert_close(smooth(field, 0), field, rtol=0, atol=0)


def test_smoothing_is_differentiated_by_itself(field: torch.Tensor) -> None:
    logits, cotangent = field[:1].clone().requires_grad_(), field[1:]
    (gradient,) = torch.autograd.grad((smooth(logits, 2) * cotangent).sum(), logits)
    torch.testing.assert_close(gradient, smooth(cotangent, 2))


def test_blurring_does_not_mix_channels() -> None:
    image = torch.zeros(1, 3, 20, 16)
    image[0, 0], image[0, 1, 10, 8], image[0, 2] = 5, 1, -1
    found = blurred(image, 2)
    assert found.shape == image.shape
    torch.testing.assert_close(found[0, 0], image[0, 0])
    torch.testing.assert_close(found[0, 2], image[0, 2])
    assert 0 < found[0, 1].max() < 0.1
    assert float(found[0, 1].sum()) == pytest.approx(1, abs=1e-4)


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
def bottleneck() -> Bottleneck:
    rng = np.random.default_rng(1)
    image, baseline = rng.normal(size=(2, 1, 3, 12, 18)).astype(np.float32)
    return Bottleneck(torch.from_numpy(image), torch.from_numpy(baseline))


def test_all_or_nothing_comes_through(bottleneck: Bottleneck) -> None:
    whole, nothing = (bottleneck.through(torch.full((1, 1, 4, 6), each)) for each in (1.0, 0.0))
    torch.testing.assert_close(whole, bottleneck.image, rtol=0, atol=0)
    torch.testing.assert_close(nothing, bottleneck.baseline, rtol=0, atol=0)


def test_several_masks_give_several_images_channels_alike(bottleneck: Bottleneck) -> None:
    masks = torch.rand(5, 1, 12, 18, generator=torch.Generator().manual_seed(0))
    found = bottleneck.through(masks)
    assert found.shape == (5, 3, 12, 18)
    share = (found - bottleneck.baseline) / (bottleneck.image - bottleneck.baseline)
    torch.testing.assert_close(share, masks.expand(-1, 3, -1, -1), rtol=1e-3, atol=1e-3)


def test_half_a_mask_shows_its_own_half(bottleneck: Bottleneck) -> None:
    mask = torch.zeros(1, 1, 4, 6)
    mask[..., :3] = 1
    found = bottleneck.through(mask)
    torch.testing.assert_close(found[..., :7], bottleneck.image[..., :7])
    torch.testing.assert_close(found[..., 11:], bottleneck.baseline[..., 11:])


def test_enlarging_keeps_mean_and_range() -> None:
    mask = torch.rand(1, 1, 6, 8, generator=torch.Generator().manual_seed(1))
    large = enlarge(mask, (60, 80))
    assert large.shape == (1, 1, 60, 80)
    assert float(large.mean()) == pytest.approx(float(mask.mean()), abs=0.01)
    assert mask.min() - 1e-6 <= large.min() <= large.max() <= mask.max() + 1e-6


@pytest.mark.parametrize("draws", [1, 2, 9, 10])
def test_noise_has_a_draw_a_step(draws: int) -> None:
    noise = stratified_noise(np.random.default_rng(0), draws, (3, 4))
    assert noise.shape == (draws, 1, 3, 4)
    assert noise.dtype == torch.float32


def test_noise_comes_in_antithetic_pairs() -> None:
    noise = stratified_noise(np.random.default_rng(0), 10, (6, 7))
    torch.testing.assert_close(noise[0::2], -noise[1::2], rtol=0, atol=0)
    assert float((noise[0::2] > 0).float().mean()) == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("draws", [10, 20])
def test_noise_is_stratified_over_the_pairs_of_each_cell(draws: int) -> None:
    noise = stratified_noise(np.random.default_rng(0), draws, (6, 7)).double().numpy()
    pairs = draws // 2
    lower = logistic(-np.abs(noise[0::2, 0]))  # of u and 1 - u the smaller, in 0..1/2
    strata = np.sort(np.floor(lower * draws).astype(int), axis=0)
    np.testing.assert_array_equal(strata, np.arange(pairs)[:, None, None] * np.ones((6, 7), int))


@pytest.mark.parametrize("place", [0, 1, 4, 9])
def test_each_draw_by_itself_is_logistic(place: int) -> None:
    noise = stratified_noise(np.random.default_rng(place), 10, (100, 100))[place].double().numpy()
    uniform = np.sort(logistic(noise).ravel())
    # Kolmogorov and Smirnov: beyond 1.95 / sqrt(n) one time in a thousand.
    distance = np.abs(uniform - (np.arange(10_000) + 0.5) / 10_000).max()
    assert distance < 1.95 / 100


def test_cells_do_not_know_of_each_other() -> None:
    noise = stratified_noise(np.random.default_rng(0), 2, (2, 20_000))[0, 0].numpy()
    assert abs(np.corrcoef(noise)[0, 1]) < 0.03


def test_the_generator_decides() -> None:
    one, same, other = (stratified_noise(np.random.default_rng(s), 4, (5, 5)) for s in (1, 1, 2))
    torch.testing.assert_close(one, same, rtol=0, atol=0)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("draws", [1, 5, 10])
def test_waves_have_a_draw_a_step_and_come_in_pairs(draws: int) -> None:
    waves = plane_waves(draws, (12, 16), 2.0)
    assert waves.shape == (draws, 1, 12, 16)
    assert waves.dtype == torch.float32
    torch.testing.assert_close(waves[1::2], -waves[0::2][: draws // 2], rtol=0, atol=0)


def test_waves_have_unit_variance_and_tell_different_things() -> None:
    waves = plane_waves(10, (56, 56), 2.0)[0::2].flatten(1)
    np.testing.assert_allclose(waves.square().mean(1), 1, atol=0.15)
    between = torch.corrcoef(waves) - torch.eye(5)
    assert float(between.abs().max()) < 0.35


def test_waves_exist_on_a_single_cell() -> None:
    assert torch.isfinite(plane_waves(4, (1, 1), 2.0)).all()


@pytest.mark.parametrize("keep", [0.02, 0.3, 0.5, 0.88])
def test_cold_samples_are_bernoulli(keep: float) -> None:
    logits = torch.logit(torch.full((1, 1, 60, 60), keep))
    noise = stratified_noise(np.random.default_rng(0), 20, (60, 60))
    masks = sample(logits, noise, 1e-3)
    decided = (masks < 0.01) | (masks > 0.99)
    assert float(decided.float().mean()) > 0.98
    assert float(masks.mean()) == pytest.approx(keep, abs=0.01)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_samples_are_the_relaxed_bernoulli_formula(temperature: float) -> None:
    keep = torch.tensor([0.1, 0.5, 0.9]).reshape(1, 1, 1, 3)
    noise = torch.tensor([-1.0, 0.0, 2.5]).reshape(1, 1, 1, 3)
    odds = keep.numpy() / (1 - keep.numpy()) * np.exp(noise.numpy())
    expected = odds ** (1 / temperature) / (1 + odds ** (1 / temperature))
    np.testing.assert_allclose(sample(torch.logit(keep), noise, temperature), expected, rtol=1e-5)


def test_without_noise_at_temperature_one_a_sample_is_its_probability() -> None:
    logits = torch.linspace(-5, 5, 12).reshape(1, 1, 3, 4)
    found = sample(logits, torch.zeros_like(logits), 1.0)
    torch.testing.assert_close(found, torch.sigmoid(logits))


@pytest.mark.parametrize("logit", [-200.0, 200.0])
def test_certain_cells_stay_finite_and_differentiable(logit: float) -> None:
    logits = torch.full((1, 1, 2, 2), logit, requires_grad=True)
    masks = sample(logits, torch.zeros(1, 1, 2, 2), 0.5)
    (gradient,) = torch.autograd.grad(masks.sum(), logits)
    torch.testing.assert_close(masks.detach(), torch.full_like(masks, float(logit > 0)))
    assert torch.isfinite(gradient).all()

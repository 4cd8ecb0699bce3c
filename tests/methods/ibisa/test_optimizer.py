"""The ten steps on functions whose needed pixels are known, and Adam's second moment pooled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ibisa_onnx.methods.ibisa.optimizer import (
    Options,
    PooledAdam,
    _gradient,
    betas,
    optimise,
    smoothings,
)
from ibisa_onnx.methods.ibisa.step import Ascent, Pull, pathwise
from ibisa_onnx.methods.masking import (
    Bottleneck,
    enlarge,
    plane_waves,
    sigmoid,
    smooth,
    stratified_noise,
)

SIDE = 56
Slope = Callable[[np.ndarray], np.ndarray]
"""Images [1, C, H, W] to the gradient of log p by them."""
TorchSmooth = Callable[[torch.Tensor, float], torch.Tensor]


@pytest.fixture
def image() -> np.ndarray:
    return np.ones((1, 3, SIDE, SIDE), np.float32)


@pytest.fixture
def baseline() -> np.ndarray:
    return np.zeros((1, 3, SIDE, SIDE), np.float32)


def looks_at(rows: slice, columns: slice) -> Slope:
    """A model that is sure of its class once it sees half of a rectangle.

    Its log p is logsigmoid(16 (the rectangle's mean - 1/2)).
    """

    def slope(images: np.ndarray) -> np.ndarray:
        weights = np.zeros_like(images)
        weights[:, :, rows, columns] = 1
        weights /= weights.sum()
        seen = (weights * images).sum()
        return 16 * sigmoid(-16 * (seen - 0.5)) * weights

    return slope


def run(
    function: Slope,
    image: np.ndarray,
    baseline: np.ndarray,
    *,
    seed: int = 0,
    options: Options | None = None,
) -> np.ndarray:
    rng, bottleneck = np.random.default_rng(seed), Bottleneck(image, baseline)

    def slope(mask: np.ndarray) -> np.ndarray:
        images = bottleneck.through(mask[None, None])
        return bottleneck.pull(function(images), mask.shape)[0, 0]

    return last(slope, bottleneck.size, options or Options(), rng)


def _along(slope: Slope, temperature: float) -> Ascent:
    """The ascent along a function's slope by the mask, the answer kept whole."""
    return pathwise(lambda mask: Pull(slope(mask)), temperature)


def last(
    slope: Slope, size: tuple[int, int], options: Options, rng: np.random.Generator
) -> np.ndarray:
    """The keep-probability after the last step."""
    return list(optimise(_along(slope, options.temperature), size, options, rng))[-1]


@pytest.mark.parametrize(
    ("rows", "columns"),
    [(slice(8, 20), slice(30, 46)), (slice(34, 48), slice(6, 18)), (slice(0, 14), slice(0, 14))],
)
def test_the_map_is_high_on_what_is_needed_and_near_zero_elsewhere(
    image: np.ndarray, baseline: np.ndarray, rows: slice, columns: slice
) -> None:
    keep = run(looks_at(rows, columns), image, baseline)
    keep = enlarge(keep[None, None], (SIDE, SIDE))[0, 0]
    needed = np.zeros((SIDE, SIDE), bool)
    needed[rows, columns] = True
    assert needed[np.unravel_index(keep.argmax(), keep.shape)]
    assert keep[needed].mean() > 5 * keep[~needed].mean()
    assert np.median(keep[~needed]) < 0.1


def test_what_nobody_needs_is_squeezed_out(image: np.ndarray, baseline: np.ndarray) -> None:
    assert run(np.zeros_like, image, baseline).max() < 0.1


def test_without_a_price_on_information_what_helps_is_kept(
    image: np.ndarray, baseline: np.ndarray
) -> None:
    free = replace(Options(), beta=0.0, evidence=0.0)
    function = looks_at(slice(0, SIDE), slice(0, SIDE))
    assert run(function, image, baseline, options=free).min() > 0.9


def test_dear_information_leaves_a_smaller_map(image: np.ndarray, baseline: np.ndarray) -> None:
    function = looks_at(slice(10, 30), slice(10, 30))
    cheap, dear = (
        run(function, image, baseline, options=Options(beta=beta, evidence=0.0)).mean()
        for beta in (1.0, 30.0)
    )
    assert dear < cheap


@pytest.mark.parametrize("steps", [1, 3, 10])
def test_a_step_asks_for_the_slope_of_one_mask(steps: int) -> None:
    masks: list[np.ndarray] = []

    def watch(mask: np.ndarray) -> np.ndarray:
        masks.append(mask)
        return np.ones_like(mask)

    options, rng = replace(Options(), steps=steps), np.random.default_rng(0)
    ascent = _along(watch, options.temperature)
    asked = []
    for keep in optimise(ascent, (30, 60), options, rng):
        asked.append(len(masks))
        masks.append(keep)
    assert asked == list(range(1, 2 * steps, 2))
    for mask in masks:
        assert (mask.shape, mask.dtype) == ((28, 56), np.float32)
        assert 0 <= mask.min() <= mask.max() <= 1


def test_same_seed_same_map(image: np.ndarray, baseline: np.ndarray) -> None:
    function = looks_at(slice(20, 40), slice(20, 40))
    noisy = Options(noise=0.2)
    one, same, other = (
        run(function, image, baseline, seed=seed, options=noisy) for seed in (7, 7, 8)
    )
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


def test_the_image_is_left_alone(image: np.ndarray, baseline: np.ndarray) -> None:
    run(looks_at(slice(0, 9), slice(0, 9)), image, baseline)
    assert (image == 1).all()
    assert (baseline == 0).all()


@pytest.mark.parametrize("size", [(30, 90), (7, 5), (1, 1)])
def test_any_size_of_image(size: tuple[int, int]) -> None:
    image = np.ones((1, 3, *size), np.float32)
    keep = run(looks_at(slice(None), slice(None)), image, np.zeros_like(image))
    assert np.isfinite(keep).all()
    assert (keep.shape[0] <= size[0], keep.shape[1] <= size[1]) == (True, True)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_slope_beyond_numbers_is_quiet_and_shows(value: float) -> None:
    """Without a warning: whoever asked for the map sees that it is NaN."""

    def slope(mask: np.ndarray) -> np.ndarray:
        found = np.zeros_like(mask)
        found[3, 4] = value
        return found

    with np.errstate(all="raise", under="ignore"):
        keep = last(slope, (8, 8), Options(), np.random.default_rng(0))
    assert np.isnan(keep).any()


# -- against PyTorch


def decides(mask: torch.Tensor) -> torch.Tensor:
    """A log p with a different slope at every cell of a mask [6, 8], both ways."""
    weights = torch.from_numpy(np.random.default_rng(3).normal(0.3, 1, (6, 8)))
    return F.logsigmoid((weights * mask**2).sum() / 2 - 1)


def slope_of_decides(mask: np.ndarray) -> np.ndarray:
    leaf = torch.tensor(mask, dtype=torch.float64, requires_grad=True)
    decides(leaf).backward()
    assert leaf.grad is not None
    return leaf.grad.numpy().astype(mask.dtype)


def test_smoothing_goes_from_coarse_to_fine() -> None:
    sigmas = smoothings(Options(steps=6, first_smoothing=9.0, smoothing=1.5))
    assert len(sigmas) == 6
    assert sigmas[0] == pytest.approx(9)
    assert sigmas[-1] == pytest.approx(1.5)
    assert sigmas == sorted(sigmas, reverse=True)
    assert smoothings(Options(steps=1, smoothing=1.5)) == pytest.approx([1.5])


def test_the_price_grows_evenly() -> None:
    assert betas(Options(steps=4, first_beta=0.25, beta=20.0)) == pytest.approx([5, 10, 15, 20])
    assert betas(Options(steps=1, beta=20.0)) == [20.0]


@pytest.fixture
def torch_loss(torch_smooth: TorchSmooth) -> Callable[..., torch.Tensor]:
    """The objective at the head of `ibisa.py`, in float64, from logits and one mask's noise."""

    def loss(
        logits: torch.Tensor, noise: np.ndarray, smoothing: float, options: Options
    ) -> torch.Tensor:
        smoothed = torch_smooth(logits, smoothing)
        mask = torch.sigmoid((smoothed + torch.from_numpy(noise)) / options.temperature)
        keep, prior = torch.sigmoid(smoothed), options.prior
        information = keep.mean()
        if options.information == "kl":
            kept, hidden = (
                keep * (keep / prior).log(),
                (1 - keep) * ((1 - keep) / (1 - prior)).log(),
            )
            information = (kept + hidden).mean()
        return options.beta * information - decides(mask)

    return loss


@pytest.mark.parametrize("temperature", [0.5, 1.0])
@pytest.mark.parametrize("smoothing", [0.5, 3.0])
@pytest.mark.parametrize(("beta", "information"), [(0.0, "mean"), (10.0, "mean"), (10.0, "kl")])
def test_the_gradient_is_the_one_of_torch(
    torch_loss: Callable[..., torch.Tensor],
    temperature: float,
    smoothing: float,
    beta: float,
    information: str,
) -> None:
    rng = np.random.default_rng(4)
    options = Options(temperature=temperature, beta=beta, information=information, prior=0.1)
    values, noise = rng.normal(size=(2, 6, 8))
    logits = torch.tensor(values, requires_grad=True)
    torch_loss(logits, noise, smoothing, options).backward()
    assert logits.grad is not None
    pull = _along(slope_of_decides, temperature)(smooth(values, smoothing), noise).gradient
    found = _gradient(pull, values, smoothing, beta, options)
    # The tails of the Gaussian, which are cut, are all that differs.
    np.testing.assert_allclose(found, logits.grad, atol=1e-3 * float(logits.grad.abs().max()))


@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_the_gradient_agrees_with_central_differences(
    torch_loss: Callable[..., torch.Tensor], temperature: float
) -> None:
    rng, options = np.random.default_rng(5), Options(temperature=temperature)
    logits, noise, direction = rng.normal(size=(3, 6, 8))
    up, down = (
        float(torch_loss(torch.from_numpy(logits + step * direction), noise, 1.5, options))
        for step in (1e-4, -1e-4)
    )
    pull = _along(slope_of_decides, temperature)(smooth(logits, 1.5), noise).gradient
    found = (_gradient(pull, logits, 1.5, options.beta, options) * direction).sum()
    assert found == pytest.approx((up - down) / 2e-4, rel=1e-3)


@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_ten_steps_are_those_of_torchs_autograd_and_adam(
    torch_loss: Callable[..., torch.Tensor], torch_smooth: TorchSmooth, temperature: float
) -> None:
    options = Options(
        temperature=temperature,
        pooling=0.0,
        first_smoothing=3.0,
        first_beta=0.5,
        beta=1.0,
        first_waves=3.0,
        noise=0.2,
        evidence=0.0,
    )
    rng = np.random.default_rng(6)
    noises = options.noise * stratified_noise(rng, options.steps, (6, 8)).astype(float)
    amplitudes = np.linspace(3, 1, options.steps)[:, None, None]
    noises += amplitudes * plane_waves(options.steps, (6, 8), options.frequency)
    logits = torch.full((6, 8), options.start, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([logits], lr=options.learning_rate)
    prices = np.linspace(0.5, 1, options.steps)
    for noise, smoothing, beta in zip(noises, smoothings(options), prices, strict=True):
        adam.zero_grad()
        torch_loss(logits, noise, smoothing, replace(options, beta=float(beta))).backward()
        adam.step()
    expected = torch.sigmoid(torch_smooth(logits, options.smoothing)).detach()
    found = last(slope_of_decides, (6, 8), options, np.random.default_rng(6))
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert float(expected.max() - expected.min()) > 0.1


@pytest.mark.parametrize(
    ("kept", "relief", "share"),
    [(1.0, 1.0, 1.0), (0.25, 1.0, 0.25), (0.25, 0.5, 0.5), (0.25, 0.0, 1.0), (9.0, 1.0, 2.0)],
)
def test_beta_is_paid_as_far_as_the_answer_stands(kept: float, relief: float, share: float) -> None:
    def keep(kept: float, options: Options) -> np.ndarray:
        """Lambda after a step of two functions at once: cells on the left help, all cost."""

        def slope(mask: np.ndarray) -> Pull:
            helps = np.where(np.arange(8) < 4, np.float32(0.02), 0) * np.ones_like(mask)
            return Pull(helps, kept)

        steps = optimise(pathwise(slope, 1.0), (6, 8), options, np.random.default_rng(0))
        return list(steps)[-1]

    options = Options(steps=3, evidence=0.0, first_beta=1.0, beta=2.0)
    expected = keep(1.0, replace(options, beta=2.0 * share))
    np.testing.assert_allclose(keep(kept, replace(options, relief=relief)), expected, rtol=1e-5)
    if share != 1:
        assert abs(expected - keep(1.0, options)).max() > 0.01


# -- evidence and rounds


def test_the_map_mixes_lambda_with_its_mean_with_the_evidence() -> None:
    pulls: list[np.ndarray] = []
    ascent = _along(slope_of_decides, 1.0)

    def watch(smoothed: np.ndarray, noise: np.ndarray) -> Pull:
        pull = ascent(smoothed, noise)
        pulls.append(pull.gradient)
        return pull

    def maps(share: float, ascent: Ascent) -> np.ndarray:
        options = Options(evidence=share, evidence_smoothing=0.7, beta=1.0)
        return np.array(list(optimise(ascent, (6, 8), options, np.random.default_rng(0))))

    lambdas, mixed = maps(0.0, watch), maps(0.25, ascent)
    relative = np.array([pull / np.sqrt((pull**2).mean()) for pull in pulls])
    for done, (keep, found) in enumerate(zip(lambdas, mixed, strict=True), 1):
        above = np.maximum(smooth(relative[:done].mean(0), 0.7), 0)
        evidence = keep.max() * above / above.max()
        expected = 0.75 * keep + 0.25 * np.sqrt(keep * evidence)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_evidence_alone_shows_nothing_where_nothing_is_kept() -> None:
    """Gradients are brought to one size, and however small ones must not be seen."""
    tiny = np.random.default_rng(1).random((8, 8)).astype(np.float32) * 1e-6
    keep = last(lambda _: tiny, (8, 8), Options(evidence=1.0), np.random.default_rng(0))
    assert keep.max() < 0.1


def test_rounds_take_the_steps_again_with_waves_of_other_directions() -> None:
    masks: list[np.ndarray] = []

    def watch(mask: np.ndarray) -> np.ndarray:
        masks.append(mask)
        return slope_of_decides(mask)

    options = Options(rounds=3, steps=4, evidence=0.0)
    keeps = list(optimise(_along(watch, 1.0), (6, 8), options, np.random.default_rng(0)))
    assert len(keeps) == len(masks) == 12
    assert not np.allclose(masks[0], masks[4])
    ends = [
        last(
            slope_of_decides,
            (6, 8),
            replace(options, rounds=1, tilt=tilt),
            np.random.default_rng(0),
        )
        for tilt in options.tilt + np.pi * np.arange(3) / 6
    ]
    np.testing.assert_allclose(keeps[-1], np.mean(ends, 0), atol=1e-6)


# -- Adam


@pytest.fixture
def gradients() -> np.ndarray:
    """Six of them, float64 [6, 8, 10]."""
    return np.random.default_rng(0).normal(size=(6, 8, 10))


def test_unpooled_it_is_plain_adam(gradients: np.ndarray) -> None:
    parameter = torch.zeros(8, 10, dtype=torch.float64, requires_grad=True)
    torch_adam = torch.optim.Adam([parameter], lr=0.3)
    adam, ours = PooledAdam(0.3, 0), np.zeros((8, 10))
    for gradient in gradients:
        parameter.grad = torch.from_numpy(gradient)
        torch_adam.step()
        ours = ours - adam.step(gradient)
        np.testing.assert_allclose(ours, parameter.detach(), rtol=1e-7, atol=1e-7)


def test_a_step_keeps_single_precision(gradients: np.ndarray) -> None:
    adam = PooledAdam(1.0, 4.0)
    for gradient in gradients.astype(np.float32):
        assert adam.step(gradient).dtype == np.float32


def test_pooled_a_cell_is_measured_against_its_neighbours() -> None:
    gradient = np.zeros((21, 21), np.float32)
    gradient[10, 10] = 1.0
    gradient[10, 12] = 1e-3
    plain, pooled = PooledAdam(1.0, 0).step(gradient), PooledAdam(1.0, 4).step(gradient)
    # Plain Adam takes a full step where there is next to no gradient; pooled, the ratio stays.
    assert plain[10, 12] / plain[10, 10] == pytest.approx(1, abs=1e-3)
    assert pooled[10, 12] / pooled[10, 10] == pytest.approx(1e-3, rel=0.5)


def test_where_all_cells_agree_pooling_changes_nothing() -> None:
    gradient = np.full((6, 9), -0.25, np.float32)
    np.testing.assert_allclose(PooledAdam(0.5, 3).step(gradient), -0.5, rtol=1e-6)


def test_a_whole_number_of_any_type_is_meant() -> None:
    options = Options(steps=5.0, budget=np.float32(200))  # type: ignore[arg-type]
    assert options == Options(steps=5, budget=200)
    assert (type(options.steps), type(options.budget)) == (int, int)

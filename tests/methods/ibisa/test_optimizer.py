"""The ten steps on functions whose needed pixels are known, and Adam's second moment pooled."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ibisa_onnx.gradients.masked_images import MaskedImages, enlarge
from ibisa_onnx.methods.ibisa.optimizer import (
    LogitGradient,
    PooledAdam,
    Step,
    _loss_gradient,
    betas,
    learning_rates,
    optimise,
    pathwise,
    price,
    smoothings,
    suited,
)
from ibisa_onnx.methods.ibisa.options import Options
from ibisa_onnx.methods.masking import grid_shape, plane_waves, sigmoid, smooth
from ibisa_onnx.methods.problem import MaskGradient

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
    options: Options | None = None,
) -> np.ndarray:
    masked = MaskedImages(image, baseline)

    def slope(mask: np.ndarray) -> np.ndarray:
        images = masked.through(mask[None, None])
        return masked.vjp(function(images), mask.shape)[0, 0]

    return last(slope, masked.size, options or Options())


def along(slope: Slope, temperature: float, ratio: float = 1.0) -> Step:
    """The step along a function's slope by each mask [h, w], of whose answer a share is left."""

    def gradient(masks: np.ndarray) -> MaskGradient:
        return MaskGradient(np.stack([slope(each) for each in masks]), np.full(len(masks), ratio))

    return pathwise(gradient, temperature)


def maps(step: Step, size: tuple[int, int], options: Options) -> Iterator[np.ndarray]:
    """The maps of one answer, its rounds one after the other."""
    found = optimise(lambda _: step, 1, size, options, together=False)
    return (keep for (keep,) in found)


def last(slope: Slope, size: tuple[int, int], options: Options) -> np.ndarray:
    """The keep-probability after the last step."""
    return list(maps(along(slope, options.temperature), size, options))[-1]


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

    options = replace(Options(), steps=steps)
    step = along(watch, options.temperature)
    asked = []
    for keep in maps(step, (30, 60), options):
        asked.append(len(masks))
        masks.append(keep)
    assert asked == list(range(1, 2 * steps, 2))
    for mask in masks:
        assert (mask.shape, mask.dtype) == ((28, 56), np.float32)
        assert 0 <= mask.min() <= mask.max() <= 1


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
        keep = last(slope, (8, 8), Options())
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


def test_the_price_and_the_steps_grow_evenly() -> None:
    assert betas(Options(steps=4, first_beta=0.25, beta=20.0)) == pytest.approx([5, 10, 15, 20])
    assert betas(Options(steps=1, beta=20.0)) == [20.0]
    steps = Options(steps=3, first_learning_rate=0.5, learning_rate=2.0)
    assert learning_rates(steps) == pytest.approx([1, 1.5, 2])


@pytest.fixture
def torch_loss(torch_smooth: TorchSmooth) -> Callable[..., torch.Tensor]:
    """The objective at the head of `optimizer.py`, in float64, from logits and one mask's noise."""

    def loss(
        logits: torch.Tensor, noise: np.ndarray, smoothing: float, options: Options
    ) -> torch.Tensor:
        smoothed = torch_smooth(logits, smoothing)
        mask = torch.sigmoid((smoothed + torch.from_numpy(noise)) / options.temperature)
        information = torch.sigmoid(smoothed).mean()
        return options.beta * information - decides(mask)

    return loss


def loss_gradient(
    logits: np.ndarray, noise: np.ndarray, smoothing: float, options: Options
) -> np.ndarray:
    """Ours, of one answer, [h, w]."""
    step = along(slope_of_decides, options.temperature)
    found = step(smooth(logits, smoothing)[None], noise[None]).values
    weight = np.array([options.beta])
    return _loss_gradient(found, logits[None], smoothing, weight)[0]


@pytest.mark.parametrize("temperature", [0.5, 1.0])
@pytest.mark.parametrize("smoothing", [0.5, 3.0])
@pytest.mark.parametrize("beta", [0.0, 10.0])
def test_the_gradient_is_the_one_of_torch(
    torch_loss: Callable[..., torch.Tensor],
    temperature: float,
    smoothing: float,
    beta: float,
) -> None:
    rng = np.random.default_rng(4)
    options = Options(temperature=temperature, beta=beta)
    values, noise = rng.normal(size=(2, 6, 8))
    logits = torch.tensor(values, requires_grad=True)
    torch_loss(logits, noise, smoothing, options).backward()
    assert logits.grad is not None
    found = loss_gradient(values, noise, smoothing, options)
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
    found = (loss_gradient(logits, noise, 1.5, options) * direction).sum()
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
        first_wave_amplitude=3.0,
        first_learning_rate=0.5,
        evidence=0.0,
    )
    amplitudes = np.linspace(3, 1, options.steps)[:, None, None]
    noises = amplitudes * plane_waves(options.steps, (6, 8), options.wave_frequency)
    logits = torch.full((6, 8), options.start, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([logits])
    shares = np.linspace(0.5, 1, options.steps).tolist()  # of beta and of the learning rate
    for noise, smoothing, share in zip(noises, smoothings(options), shares, strict=True):
        adam.zero_grad()
        adam.param_groups[0]["lr"] = share * options.learning_rate
        torch_loss(logits, noise, smoothing, replace(options, beta=share)).backward()
        adam.step()
    expected = torch.sigmoid(torch_smooth(logits, options.smoothing)).detach()
    found = last(slope_of_decides, (6, 8), options)
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert float(expected.max() - expected.min()) > 0.1


@pytest.mark.parametrize(
    ("ratio", "exponent", "share"),
    [(1.0, 1.0, 1.0), (0.25, 1.0, 0.25), (0.25, 0.5, 0.5), (0.25, 0.0, 1.0), (9.0, 1.0, 2.0)],
)
def test_beta_is_paid_as_far_as_the_answer_stands(
    ratio: float, exponent: float, share: float
) -> None:
    def keep(ratio: float, options: Options) -> np.ndarray:
        """Lambda after the steps of two functions at once: cells on the left help, all cost."""

        def slope(mask: np.ndarray) -> np.ndarray:
            return np.where(np.arange(8) < 4, np.float32(0.02), 0) * np.ones_like(mask)

        steps = maps(along(slope, 1.0, ratio), (6, 8), options)
        return list(steps)[-1]

    options = Options(steps=3, evidence=0.0, first_beta=1.0, beta=2.0)
    expected = keep(1.0, replace(options, beta=2.0 * share))
    found = keep(ratio, replace(options, penalty_exponent=exponent))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    if share != 1:
        assert abs(expected - keep(1.0, options)).max() > 0.01


# -- evidence and rounds


def test_the_map_mixes_lambda_with_its_mean_with_the_evidence() -> None:
    gradients: list[np.ndarray] = []
    step = along(slope_of_decides, 1.0)

    def watch(smoothed: np.ndarray, noise: np.ndarray) -> LogitGradient:
        found = step(smoothed, noise)
        gradients.append(found.values[0])
        return found

    def mixed_by(share: float, step: Step) -> np.ndarray:
        options = Options(evidence=share, evidence_smoothing=0.7, softness=0.0, beta=1.0)
        return np.array(list(maps(step, (6, 8), options)))

    lambdas, mixed = mixed_by(0.0, watch), mixed_by(0.25, step)
    relative = np.array([each / np.sqrt((each**2).mean()) for each in gradients])
    for done, (keep, found) in enumerate(zip(lambdas, mixed, strict=True), 1):
        above = np.maximum(smooth(relative[:done].mean(0), 0.7), 0)
        evidence = keep.max() * above / above.max()
        expected = 0.75 * keep + 0.25 * np.sqrt(keep * evidence)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_evidence_alone_shows_nothing_where_nothing_is_kept() -> None:
    """Gradients are brought to one size, and however small ones must not be seen."""
    tiny = np.random.default_rng(1).random((8, 8)).astype(np.float32) * 1e-6
    keep = last(lambda _: tiny, (8, 8), Options(evidence=1.0))
    assert keep.max() < 0.1


def test_rounds_take_the_steps_again_with_waves_of_other_directions() -> None:
    masks: list[np.ndarray] = []

    def watch(mask: np.ndarray) -> np.ndarray:
        masks.append(mask)
        return slope_of_decides(mask)

    options = Options(rounds=3, steps=4, evidence=0.0)
    keeps = list(maps(along(watch, 1.0), (6, 8), options))
    assert len(keeps) == len(masks) == 12
    assert not np.allclose(masks[0], masks[4])
    ends = [
        last(
            slope_of_decides,
            (6, 8),
            replace(options, rounds=1, wave_angle=float(angle)),
        )
        for angle in options.wave_angle + np.pi * np.arange(3) / 6
    ]
    np.testing.assert_allclose(keeps[-1], np.exp(np.log(ends).mean(0)), atol=1e-6)


# -- several answers side by side

SIZE = (12, 16)


def deciding(seed: int) -> Slope:
    """The slope by a mask of a log p of one's own: w m^2 with weights of both signs."""
    weights = np.random.default_rng(seed).normal(0.3, 1, SIZE).astype(np.float32)
    return lambda mask: weights * mask


def side_by_side(slopes: list[Slope], ratios: list[float]) -> Callable[[Sequence[int]], Step]:
    """Opens steps of these answers: as many masks of the first as there are rounds, and so on."""

    def open_step(rounds: Sequence[int]) -> Step:
        each = [slope for slope in slopes for _ in rounds]
        ratio = np.repeat(ratios, len(rounds))

        def gradient(masks: np.ndarray) -> MaskGradient:
            pairs = zip(each, masks, strict=True)
            return MaskGradient(np.stack([slope(mask) for slope, mask in pairs]), ratio)

        return pathwise(gradient, 1.0)

    return open_step


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("rounds", [1, 3])
@pytest.mark.parametrize("evidence", [0.0, 0.9])
def test_answers_side_by_side_are_what_each_is_alone(
    rounds: int, evidence: float, together: bool
) -> None:
    """Bit for bit, after every step."""
    options = Options(steps=4, rounds=rounds, evidence=evidence, beta=4.0)
    slopes, ratios = [deciding(seed) for seed in range(5)], [1.0, 0.3, 1.7, 0.9, np.nan]

    def found(numbers: list[int]) -> list[np.ndarray]:
        some = side_by_side([slopes[n] for n in numbers], [ratios[n] for n in numbers])
        return list(optimise(some, len(numbers), SIZE, options, together=together))

    all_of_them, alone = found([0, 1, 2, 3, 4]), [found([n]) for n in range(5)]
    assert len(all_of_them) == (4 if together else 4 * rounds)
    assert len({each.tobytes() for each in all_of_them[-1]}) == 5  # no two are the same
    for step, maps_ in enumerate(all_of_them):
        assert (maps_.shape, maps_.dtype) == ((5, *SIZE), np.float32)
        for number, one in enumerate(alone):
            np.testing.assert_array_equal(maps_[number], one[step][0])
    some = found([3, 1])  # in any order and company
    np.testing.assert_array_equal(some[-1], all_of_them[-1][[3, 1]])


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("evidence", [0.0, 0.9, 1.0])
def test_rounds_together_end_in_the_map_of_rounds_in_turn(count: int, evidence: float) -> None:
    options = Options(steps=3, rounds=4, evidence=evidence, beta=4.0)
    step = side_by_side([deciding(seed) for seed in range(count)], [1.0, 0.4, 1.5][:count])

    def found(*, together: bool) -> list[np.ndarray]:
        return list(optimise(step, count, SIZE, options, together=together))

    map_concurrently, in_turn = found(together=True), found(together=False)
    assert (len(map_concurrently), len(in_turn)) == (3, 12)
    np.testing.assert_array_equal(map_concurrently[-1], in_turn[-1])
    assert not np.array_equal(in_turn[2], in_turn[-1])  # one round is not all of them


@pytest.mark.parametrize("together", [False, True])
def test_a_step_is_opened_once_for_the_rounds_that_it_takes_side_by_side(together: bool) -> None:
    opened: list[Sequence[int]] = []
    asked: list[int] = []

    def open_step(rounds: Sequence[int]) -> Step:
        opened.append(rounds)

        def step(smoothed: np.ndarray, noise: np.ndarray) -> LogitGradient:
            assert smoothed.shape == noise.shape
            asked.append(len(smoothed))
            return LogitGradient(np.ones_like(smoothed), np.ones(len(smoothed)))

        return step

    options = Options(steps=2, rounds=3)
    assert len(list(optimise(open_step, 5, SIZE, options, together=together))) == len(asked)
    assert opened == ([[0, 1, 2]] if together else [[0], [1], [2]])
    assert asked == ([15, 15] if together else [5] * 6)


def test_every_answer_meets_the_same_masks() -> None:
    noises: list[np.ndarray] = []

    def step(smoothed: np.ndarray, noise: np.ndarray) -> LogitGradient:
        noises.append(noise.reshape(2, 3, *noise.shape[1:]))  # of answers and rounds
        return LogitGradient(np.ones_like(smoothed), np.ones(len(smoothed)))

    options = Options(steps=2, rounds=3)
    list(optimise(lambda _: step, 2, SIZE, options))
    for first, second in noises:
        np.testing.assert_array_equal(first, second)
        assert not np.array_equal(first[0], first[1])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_gradient_beyond_numbers_spoils_no_other_answer(value: float) -> None:
    def broken(mask: np.ndarray) -> np.ndarray:
        found = np.zeros_like(mask)
        found[3, 4] = value
        return found

    def found(slopes: list[Slope]) -> np.ndarray:
        step = side_by_side(slopes, [1.0] * len(slopes))
        return list(optimise(step, len(slopes), SIZE, Options(rounds=2)))[-1]

    with np.errstate(all="raise", under="ignore"):
        first, spoilt, last_ = found([deciding(0), broken, deciding(1)])
    assert np.isnan(spoilt).any()
    np.testing.assert_array_equal([first, last_], found([deciding(0), deciding(1)]))


# -- Adam


@pytest.fixture
def gradients() -> np.ndarray:
    """Six of them, float64 [6, 8, 10]."""
    return np.random.default_rng(0).normal(size=(6, 8, 10))


def test_unpooled_it_is_plain_adam(gradients: np.ndarray) -> None:
    parameter = torch.zeros(8, 10, dtype=torch.float64, requires_grad=True)
    torch_adam = torch.optim.Adam([parameter], lr=0.3)
    adam, ours = PooledAdam(0), np.zeros((8, 10))
    for gradient in gradients:
        parameter.grad = torch.from_numpy(gradient)
        torch_adam.step()
        ours = ours - adam.step(gradient, 0.3)
        np.testing.assert_allclose(ours, parameter.detach(), rtol=1e-7, atol=1e-7)


def test_a_step_keeps_single_precision(gradients: np.ndarray) -> None:
    adam = PooledAdam(4.0)
    for gradient in gradients.astype(np.float32):
        assert adam.step(gradient, 1.0).dtype == np.float32


def test_pooled_a_cell_is_measured_against_its_neighbours() -> None:
    gradient = np.zeros((21, 21), np.float32)
    gradient[10, 10] = 1.0
    gradient[10, 12] = 1e-3
    plain, pooled = (PooledAdam(pooling).step(gradient, 1.0) for pooling in (0, 4))
    # Plain Adam takes a full step where there is next to no gradient; pooled, the ratio stays.
    assert plain[10, 12] / plain[10, 10] == pytest.approx(1, abs=1e-3)
    assert pooled[10, 12] / pooled[10, 10] == pytest.approx(1e-3, rel=0.5)


def test_where_all_cells_agree_pooling_changes_nothing() -> None:
    gradient = np.full((6, 9), -0.25, np.float32)
    np.testing.assert_allclose(PooledAdam(3).step(gradient, 0.5), -0.5, rtol=1e-6)


def test_a_whole_number_of_any_type_is_meant() -> None:
    options = Options(steps=5.0, budget=np.float32(200))  # type: ignore[arg-type]
    assert options == Options(steps=5, budget=200)
    assert (type(options.steps), type(options.budget)) == (int, int)


def activated(activations: list[np.ndarray], **settings: Any) -> np.ndarray:
    """The map where all cells count alike, but for these class activation maps, a step each."""
    left = iter(activations)

    def step(smoothed: np.ndarray, noise: np.ndarray) -> LogitGradient:
        return LogitGradient(np.ones_like(smoothed), np.ones(1), np.stack([next(left)] * 2)[None])

    options = Options(steps=len(activations), beta=0.0, wave_amplitude=0.0, **settings)
    return list(optimise(lambda _: step, 1, SIZE, options))[-1][0]


def test_the_map_is_high_where_features_are_active() -> None:
    low, high = np.zeros((3, 4), np.float32), np.zeros((3, 4), np.float32)
    low[:, 2:], high[:, 3:] = 0.5, 80.0  # however large: each step counts alike
    found = activated([low, high])
    plain = activated([low, high], activation=0.0)
    assert np.ptp(plain) < 1e-5
    assert found.max() == pytest.approx(plain.max())
    columns = found.mean(0)
    assert columns[-1] > 2 * columns[9] > 4 * columns[0] > 0
    assert (found[:, -1] == found.max()).all()


def test_where_gradients_disagree_the_map_is_small_and_in_order() -> None:
    """Evidence is e + sqrt(e^2 + (k q)^2), halved; only its order and ratios are left in a map."""
    shown, turns = np.zeros(SIZE, np.float32), iter([1, -1, 1, -1])
    shown[:, :4], shown[:, 4:8], shown[:, 8:] = 1.0, 0.5, -1.0

    def step(smoothed: np.ndarray, noise: np.ndarray) -> LogitGradient:
        gradient = shown.copy()
        gradient[:, 4:8] *= next(turns)  # for and against it in turn
        return LogitGradient(np.broadcast_to(gradient, smoothed.shape), np.ones(1))

    options = Options(
        **{"steps": 4, "beta": 0.0, "wave_amplitude": 0.0, "evidence": 1.0},
        **{"evidence_smoothing": 0.0, "learning_rate": 1e-6, "softness": 0.2},
    )
    (map,) = list(optimise(lambda _: step, 1, SIZE, options))[-1]
    yes, even, no = (float(map[0, column]) ** 2 for column in (0, 6, SIZE[1] - 1))
    scale = 1 + np.hypot(1, 0.2)  # of the gradients' root mean square, which divides all
    assert even / yes == pytest.approx(0.2 * 0.5 / scale, rel=1e-2)
    assert no / yes == pytest.approx((np.hypot(1, 0.2) - 1) / scale, rel=1e-2)


@pytest.mark.parametrize("nothing", [0.0, -1.0, np.nan])
def test_without_active_features_the_map_is_what_it_is_without(nothing: float) -> None:
    activations = [np.full((3, 4), nothing, np.float32)] * 2
    plain = activated(activations, activation=0.0)
    np.testing.assert_array_equal(activated(activations), plain)


@pytest.mark.parametrize(
    ("extent", "expected"),
    [(None, 1.0), (0.5, 1.0), (0.08, 1.0), (0.02, 2.0), (0.005, 4.0), (0.0001, 4.0), (0.0, 4.0)],
)
def test_a_small_target_pays_more(extent, expected):
    assert price(extent) == pytest.approx(expected)


def test_the_price_multiplies_beta():
    """Without any gradient the penalty alone moves lambda: twice the price, twice the beta."""
    options = Options(steps=1, beta=1.0, pooling=0.0)

    def step(logits, noise):
        return LogitGradient(np.zeros_like(logits), np.ones(len(logits)))

    def last(prices, beta):
        given = replace(options, beta=beta)
        maps = optimise(lambda _: step, 2, (8, 8), given, prices=prices)
        return list(maps)[-1]

    np.testing.assert_allclose(last([2.0, 2.0], 1.0), last(None, 2.0))


@pytest.mark.parametrize("size", [(224, 224), (240, 320), (100, 200)])
def test_inputs_of_usual_aspect_keep_their_settings(size):
    assert suited(Options(), size) == Options()


@pytest.mark.parametrize("size", [(48, 320), (320, 48)])
def test_a_long_input_has_as_many_cells_as_a_square_one(size):
    found = suited(Options(), size)
    rows, columns = grid_shape(*size, found.grid)
    assert rows * columns == pytest.approx(Options().grid ** 2, rel=0.03)
    assert found.wave_frequency == pytest.approx(3 * math.sqrt(320 / 48))

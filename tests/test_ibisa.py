"""The ten steps on functions whose needed pixels are known, and Adam's second moment pooled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ibisa_onnx.bottleneck import Bottleneck
from ibisa_onnx.ibisa import Options, PooledAdam, optimise, smoothings

SIDE = 56
LogProbability = Callable[[torch.Tensor], torch.Tensor]


@pytest.fixture
def image() -> torch.Tensor:
    return torch.ones(1, 3, SIDE, SIDE)


@pytest.fixture
def baseline() -> torch.Tensor:
    return torch.zeros(1, 3, SIDE, SIDE)


def looks_at(rows: slice, columns: slice) -> LogProbability:
    """A model that is sure of its class once it sees half of a rectangle."""

    def log_probability(images: torch.Tensor) -> torch.Tensor:
        seen = images[:, :, rows, columns].mean((1, 2, 3))
        return F.logsigmoid(16 * (seen - 0.5))

    return log_probability


def run(
    function: LogProbability,
    image: torch.Tensor,
    baseline: torch.Tensor,
    *,
    seed: int = 0,
    options: Options | None = None,
    progress: Callable[[], None] = lambda: None,
) -> torch.Tensor:
    rng, bottleneck = np.random.default_rng(seed), Bottleneck(image, baseline)
    size = (image.shape[2], image.shape[3])
    through = bottleneck.through
    return optimise(
        lambda masks: function(through(masks)), size, options or Options(), rng, progress
    )


def at_image_size(keep: torch.Tensor) -> np.ndarray:
    return F.interpolate(keep, (SIDE, SIDE), mode="bilinear")[0, 0].detach().numpy()


@pytest.mark.parametrize(
    ("rows", "columns"),
    [(slice(8, 20), slice(30, 46)), (slice(34, 48), slice(6, 18)), (slice(0, 14), slice(0, 14))],
)
def test_the_map_is_high_on_what_is_needed_and_near_zero_elsewhere(
    image: torch.Tensor, baseline: torch.Tensor, rows: slice, columns: slice
) -> None:
    keep = at_image_size(run(looks_at(rows, columns), image, baseline))
    needed = np.zeros((SIDE, SIDE), bool)
    needed[rows, columns] = True
    assert needed[np.unravel_index(keep.argmax(), keep.shape)]
    assert keep[needed].mean() > 5 * keep[~needed].mean()
    assert np.median(keep[~needed]) < 0.1


def test_what_nobody_needs_is_squeezed_out(image: torch.Tensor, baseline: torch.Tensor) -> None:
    keep = run(lambda images: images.sum((1, 2, 3)) * 0, image, baseline)
    assert float(keep.max()) < 0.1


def test_without_a_price_on_information_what_helps_is_kept(
    image: torch.Tensor, baseline: torch.Tensor
) -> None:
    free = replace(Options(), beta=0.0)
    function = looks_at(slice(0, SIDE), slice(0, SIDE))
    assert float(run(function, image, baseline, options=free).min()) > 0.9


def test_dear_information_leaves_a_smaller_map(image: torch.Tensor, baseline: torch.Tensor) -> None:
    function = looks_at(slice(10, 30), slice(10, 30))
    cheap, dear = (
        float(run(function, image, baseline, options=replace(Options(), beta=beta)).mean())
        for beta in (1.0, 30.0)
    )
    assert dear < cheap


@pytest.mark.parametrize("steps", [1, 3, 10])
def test_a_step_is_one_image_forward_and_one_backward(
    image: torch.Tensor, baseline: torch.Tensor, steps: int
) -> None:
    forwards: list[int] = []
    backwards: list[int] = []
    ticks: list[int] = []
    inner = looks_at(slice(0, 9), slice(0, 9))

    def count(images: torch.Tensor) -> torch.Tensor:
        forwards.append(len(images))
        images.register_hook(lambda gradient: backwards.append(len(gradient)))
        return inner(images)

    options = replace(Options(), steps=steps)
    keep = run(
        count, image, baseline, options=options, progress=lambda: ticks.append(len(forwards))
    )
    assert forwards == backwards == [1] * steps
    assert ticks == list(range(1, steps + 1))
    assert keep.dtype == torch.float32
    assert float(keep.min()) >= 0
    assert float(keep.max()) <= 1


def test_same_seed_same_map(image: torch.Tensor, baseline: torch.Tensor) -> None:
    function = looks_at(slice(20, 40), slice(20, 40))
    one, same, other = (run(function, image, baseline, seed=seed) for seed in (7, 7, 8))
    torch.testing.assert_close(one, same, rtol=0, atol=0)
    assert not torch.equal(one, other)


def test_the_image_is_left_alone(image: torch.Tensor, baseline: torch.Tensor) -> None:
    run(looks_at(slice(0, 9), slice(0, 9)), image, baseline)
    torch.testing.assert_close(image, torch.ones_like(image), rtol=0, atol=0)
    torch.testing.assert_close(baseline, torch.zeros_like(baseline), rtol=0, atol=0)


@pytest.mark.parametrize("size", [(30, 90), (7, 5), (1, 1)])
def test_any_size_of_image(size: tuple[int, int]) -> None:
    keep = run(
        looks_at(slice(None), slice(None)), torch.ones(1, 3, *size), torch.zeros(1, 3, *size)
    )
    assert torch.isfinite(keep).all()
    assert (keep.shape[2] <= size[0], keep.shape[3] <= size[1]) == (True, True)


def test_smoothing_goes_from_coarse_to_fine() -> None:
    sigmas = smoothings(Options(steps=6, first_smoothing=9.0, smoothing=1.5))
    assert len(sigmas) == 6
    assert sigmas[0] == pytest.approx(9)
    assert sigmas[-1] == pytest.approx(1.5)
    assert sigmas == sorted(sigmas, reverse=True)
    assert smoothings(Options(steps=1, first_smoothing=9.0, smoothing=1.5)) == [1.5]


@pytest.fixture
def gradients() -> list[torch.Tensor]:
    values = np.random.default_rng(0).normal(size=(6, 1, 1, 8, 10))
    return [torch.from_numpy(each) for each in values]


def test_unpooled_it_is_plain_adam(gradients: list[torch.Tensor]) -> None:
    parameter = torch.zeros_like(gradients[0], requires_grad=True)
    torch_adam = torch.optim.Adam([parameter], lr=0.3)
    adam, ours = PooledAdam(0.3, 0), torch.zeros_like(gradients[0])
    for gradient in gradients:
        parameter.grad = gradient
        torch_adam.step()
        ours = ours - adam.step(gradient)
        torch.testing.assert_close(ours, parameter.detach())


def test_pooled_a_cell_is_measured_against_its_neighbours() -> None:
    gradient = torch.zeros(1, 1, 21, 21)
    gradient[..., 10, 10] = 1.0
    gradient[..., 10, 12] = 1e-3
    plain, pooled = PooledAdam(1.0, 0).step(gradient), PooledAdam(1.0, 4).step(gradient)
    # Plain Adam takes a full step where there is next to no gradient; pooled, the ratio stays.
    assert float(plain[..., 10, 12] / plain[..., 10, 10]) == pytest.approx(1, abs=1e-3)
    assert float(pooled[..., 10, 12] / pooled[..., 10, 10]) == pytest.approx(1e-3, rel=0.5)


def test_where_all_cells_agree_pooling_changes_nothing() -> None:
    gradient = torch.full((1, 1, 6, 9), -0.25)
    torch.testing.assert_close(PooledAdam(0.5, 3).step(gradient), torch.full((1, 1, 6, 9), -0.5))

"""Planted effects are found from far fewer noisy answers than there are cells."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ibisa_onnx.gradients.masked_images import MaskedImages
from ibisa_onnx.methods.ibisa.forward_only import Estimate, estimates
from ibisa_onnx.methods.ibisa.gaussian_process import Posterior, Prior, regress
from ibisa_onnx.methods.ibisa.random_masks import smooth_masks

SIDE, GRID = 56, 28
Query = Callable[[np.ndarray], np.ndarray]


def blobs(side: int) -> np.ndarray:
    """A strong and a weak cause, and one that speaks against."""
    rows, columns = (np.mgrid[:side, :side] + 0.5) / side
    effects = [
        strength * np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / (2 * 0.08**2))
        for row, column, strength in ((0.3, 0.25, 1.0), (0.7, 0.75, 0.6), (0.25, 0.8, -0.5))
    ]
    return np.sum(effects, 0)


@pytest.fixture(scope="module")
def masks() -> np.ndarray:
    """90 masks on the grid of effects, float64 [90, GRID, GRID]."""
    (drawn,) = smooth_masks(np.random.default_rng(0), 90, (SIDE, SIDE), 90)
    small = F.adaptive_avg_pool2d(torch.from_numpy(drawn), (GRID, GRID))
    return small[:, 0].double().numpy()


def score(masks: np.ndarray, effect: np.ndarray) -> np.ndarray:
    """What masks and their complements give under a linear model, [N, 2]."""
    return np.stack([(each * effect).sum((1, 2)) for each in (masks, 1 - masks)], 1)


def fit(masks: np.ndarray, scores: np.ndarray, contrast: np.ndarray | None = None) -> Posterior:
    """What is found, under the same contrast everywhere unless one is given."""
    flat = np.ones(masks.shape[1:])
    posterior = regress(masks, scores, flat if contrast is None else contrast)
    assert posterior is not None
    return posterior


def mean(masks: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """The effects that are found."""
    return fit(masks, scores).mean


@pytest.mark.parametrize(("noise", "least"), [(0.0, 0.95), (0.2, 0.9), (0.5, 0.8)])
def test_a_smooth_field_is_recovered_from_noisy_scores(
    masks: np.ndarray, noise: float, least: float
) -> None:
    planted = blobs(GRID)
    assert 2 * len(masks) < planted.size / 4
    signal = score(masks, planted)
    disturbance = np.random.default_rng(1).normal(0, noise * signal.std(), signal.shape)
    found = mean(masks, signal + disturbance)
    assert np.corrcoef(found.ravel(), planted.ravel())[0, 1] > least
    near = np.subtract(np.unravel_index(found.argmax(), found.shape), (0.3 * GRID, 0.25 * GRID))
    assert np.abs(near).max() <= 0.08 * GRID


def test_noise_alone_stays_small(masks: np.ndarray) -> None:
    signal = score(masks, blobs(GRID))
    noise = np.random.default_rng(2).normal(0, signal.std(), signal.shape)
    of_signal, of_noise = (mean(masks, each) for each in (signal, noise))
    assert np.abs(of_noise).max() < 0.5 * np.abs(of_signal).max()


def test_scores_that_do_not_move_have_no_effect(masks: np.ndarray) -> None:
    assert regress(masks, np.full((len(masks), 2), 0.3), np.ones((GRID, GRID))) is None


@pytest.mark.parametrize("shared", [7.0, "each pair's own"])
def test_what_a_mask_and_its_complement_share_does_not_matter(
    masks: np.ndarray, shared: float | str
) -> None:
    signal = score(masks, blobs(GRID))
    rng = np.random.default_rng(4)
    offset = rng.normal(size=(len(masks), 1)) if isinstance(shared, str) else shared
    one, other = (mean(masks, signal + added) for added in (0, offset))
    np.testing.assert_allclose(one, other, atol=1e-6 * np.abs(one).max())


def test_a_grid_need_not_be_square() -> None:
    planted = blobs(GRID)[:, :12]
    masks = np.random.default_rng(3).random((150, *planted.shape))
    found = mean(masks, score(masks, planted))
    assert found.shape == planted.shape
    assert np.corrcoef(found.ravel(), planted.ravel())[0, 1] > 0.9


def test_the_length_of_the_prior_is_the_planted_one(masks: np.ndarray) -> None:
    """Of two fields, one with features four times as large."""
    rng = np.random.default_rng(6)
    fields = [
        cv2.GaussianBlur(rng.standard_normal((GRID, GRID)), (0, 0), sigma) for sigma in (1, 4)
    ]
    fine, coarse = (fit(masks, score(masks, field)) for field in fields)
    assert fine.priors[0].length < coarse.priors[0].length


def test_draws_spread_as_the_posterior_does(masks: np.ndarray) -> None:
    """Mean and variance by equations 2.25 and 2.26 of Rasmussen and Williams, written out."""
    rng = np.random.default_rng(7)
    signal = score(masks, blobs(GRID))
    contrast = rng.uniform(0.2, 2, (GRID, GRID))
    noisy = signal + rng.normal(0, 0.2 * signal.std(), signal.shape)
    posterior = regress(masks, noisy, contrast, [Prior(0.12, 1.0)])
    assert posterior is not None
    (found,) = posterior.fits
    spread = contrast.ravel()
    prior = found.scale * np.kron(found.rows, found.columns) * np.outer(spread, spread)
    seen = (masks - 0.5).reshape(len(masks), -1)
    gain = (
        prior
        @ seen.T
        @ np.linalg.inv(seen @ prior @ seen.T + found.scale * found.noise * np.eye(len(seen)))
    )
    np.testing.assert_allclose(found.mean.ravel(), gain @ found.targets, atol=1e-6)
    deviation = np.sqrt(np.diag(prior - gain @ seen @ prior))
    np.testing.assert_allclose(posterior.deviation.ravel(), deviation, rtol=1e-4)
    draws = posterior.draw(rng, 4000).reshape(4000, -1)
    np.testing.assert_allclose(draws.std(0), deviation, rtol=0.08)
    assert np.abs(draws.mean(0) - found.mean.ravel()).max() < 0.08 * deviation.max()


def test_more_masks_than_cells_tell_what_all_of_them_would() -> None:
    """By the equations written out for every mask (Rasmussen and Williams, 2.25, 2.26, 2.30)."""
    rng = np.random.default_rng(3)
    masks = rng.random((200, 6, 8))
    scores = score(masks, rng.standard_normal((6, 8))) + rng.standard_normal((200, 2))
    posterior = regress(masks, scores, np.ones((6, 8)), [Prior(0.2, 0.0)])
    assert posterior is not None
    (found,) = posterior.fits
    seen, targets = (masks - 0.5).reshape(200, -1), (scores[:, 0] - scores[:, 1]) / 2
    prior = found.scale * np.kron(found.rows, found.columns)
    total = seen @ prior @ seen.T + found.scale * found.noise * np.eye(200)
    gain = prior @ seen.T @ np.linalg.inv(total)
    np.testing.assert_allclose(found.mean.ravel(), gain @ targets, atol=1e-9)
    np.testing.assert_allclose(found.variance.ravel(), np.diag(prior - gain @ seen @ prior))
    # The scale is the likeliest, so that t' total^-1 t is the number of answers.
    assert targets @ np.linalg.solve(total, targets) == pytest.approx(200)
    expected = -(np.linalg.slogdet(total)[1]) / 2
    assert found.likelihood == pytest.approx(expected)


def test_priors_that_fit_as_well_are_averaged(masks: np.ndarray) -> None:
    few, scores = masks[:12], score(masks[:12], blobs(GRID))
    found = fit(few, scores)
    assert len(found.fits) > 1
    assert found.weights.sum() == pytest.approx(1)
    expected = sum(w * each.mean for w, each in zip(found.weights, found.fits, strict=True))
    np.testing.assert_allclose(found.mean, expected)
    draws = found.draw(np.random.default_rng(0), 4000)
    np.testing.assert_allclose(draws.std(0).mean(), found.deviation.mean(), rtol=0.05)


def test_scores_that_differ_by_little_give_draws_that_do(masks: np.ndarray) -> None:
    """Also where their likeliest priors are others."""
    few, scores = masks[:20], score(masks[:20], blobs(GRID))
    noise = np.random.default_rng(1).normal(0, 0.01 * scores.std(), scores.shape)
    one, other = (
        fit(few, each).draw(np.random.default_rng(2), 50) for each in (scores, scores + noise)
    )
    pairs = zip(one.reshape(50, -1), other.reshape(50, -1), strict=True)
    alike = [np.corrcoef(*pair)[0, 1] > 0.9 for pair in pairs]
    assert np.mean(alike) > 0.8


def test_the_more_is_asked_the_surer_it_is(masks: np.ndarray) -> None:
    signal = score(masks, blobs(GRID))
    few, many = (fit(masks[:count], signal[:count]) for count in (30, 90))
    assert (many.deviation / many.mean.max()).mean() < 0.7 * (few.deviation / few.mean.max()).mean()


def test_contrast_is_where_effects_are_looked_for(masks: np.ndarray) -> None:
    """Where nothing changes there is no effect, and the rest is found from fewer answers."""
    planted = np.zeros((GRID, GRID))
    planted[12:18, 12:20] = 1.0
    contrast = 0.05 + planted
    signal = score(masks[:25], planted)
    plain, helped = (fit(masks[:25], signal, each) for each in (None, contrast))
    agree = [np.corrcoef(each.mean.ravel(), planted.ravel())[0, 1] for each in (plain, helped)]
    assert agree[1] > agree[0] + 0.1
    assert np.abs(helped.mean[contrast < 0.1]).max() < 0.1 * helped.mean.max()


@pytest.fixture
def square() -> np.ndarray:
    """Where the planted model looks, bool [SIDE, SIDE]."""
    inside = np.zeros((SIDE, SIDE), bool)
    inside[10:24, 30:46] = True
    return inside


@pytest.fixture
def masked() -> MaskedImages:
    image = np.ones((1, 3, SIDE, SIDE), np.float32)
    return MaskedImages(image, np.zeros_like(image))


def ask(square: np.ndarray) -> Query:
    """A model that is sure once it sees half of the square; image by image, as some endpoints."""
    return lambda images: np.array(
        [1 / (1 + np.exp(-12 * (float(one[0][square].mean()) - 0.5))) for one in images]
    )


def run(query: Query, masked: MaskedImages, **options: Any) -> np.ndarray:
    settings: dict[str, Any] = {"budget": 120, "seed": 0, **options}
    rng = np.random.default_rng(settings.pop("seed"))
    budget = settings.pop("budget")
    return last(estimates(query, masked, budget, rng, **settings)).keep


def last(rounds: Iterator[Estimate]) -> Estimate:
    """What is known in the end."""
    return list(rounds)[-1]


def test_the_map_is_high_where_the_model_looks_and_near_zero_elsewhere(
    square: np.ndarray, masked: MaskedImages
) -> None:
    found = run(ask(square), masked)
    assert found.shape == (GRID, GRID)
    assert found.dtype == np.float32
    inside = square[::2, ::2]
    far = cv2.dilate(inside.astype(np.uint8), np.ones((9, 9), np.uint8)) == 0
    assert inside[np.unravel_index(found.argmax(), inside.shape)]
    assert found[inside].mean() > 0.5
    assert found[far].mean() < 0.1
    assert found.min() >= 0
    assert found.max() <= 1


def small(row: int, column: int) -> np.ndarray:
    """A square of 1% of the image, its corner there."""
    square = np.zeros((SIDE, SIDE), bool)
    square[row : row + 6, column : column + 6] = True
    return square


def test_a_small_cause_is_clearer_where_the_answer_is_known_to_be(masked: MaskedImages) -> None:
    square = small(30, 12)
    near = (10 / SIDE, 28 / SIDE, 20 / SIDE, 38 / SIDE)
    rng = np.random.default_rng(3)

    def noisy(images: np.ndarray) -> np.ndarray:
        return ask(square)(images) + rng.normal(0, 0.02, len(images))

    shares = [
        [
            float(found[square[::2, ::2]].sum() / found.sum())
            for seed in range(4)
            for found in [run(noisy, masked, seed=seed, location=place)]
        ]
        for place in (None, near)
    ]
    assert np.mean(shares[1]) > 1.15 * np.mean(shares[0])


def test_a_cause_far_from_the_answer_is_found_all_the_same(masked: MaskedImages) -> None:
    square = small(30, 12)
    far = (0.75, 0.05, 0.95, 0.25)
    for seed in range(3):
        found = run(ask(square), masked, budget=200, seed=seed, location=far)
        assert square[::2, ::2][np.unravel_index(found.argmax(), found.shape)]


@pytest.mark.parametrize(
    ("size", "grid"), [((97, 41), (28, 12)), ((30, 60), (14, 28)), ((20, 9), (20, 9))]
)
def test_pixels_need_not_fill_whole_cells(size: tuple[int, int], grid: tuple[int, int]) -> None:
    square = np.zeros(size, bool)
    square[size[0] // 2 : size[0] * 3 // 4, size[1] // 3 : size[1] * 2 // 3] = True
    image = np.ones((1, 3, *size), np.float32)
    found = run(ask(square), MaskedImages(image, np.zeros_like(image)), budget=160)
    assert found.shape == grid
    row, column = ((np.array(np.unravel_index(found.argmax(), grid)) + 0.5) / grid * size).astype(
        int
    )
    assert square[row, column]


def test_every_mask_is_shown_with_its_complement(masked: MaskedImages) -> None:
    shown: list[np.ndarray] = []

    def watch(images: np.ndarray) -> np.ndarray:
        shown.append(images)
        return images.mean((1, 2, 3))

    run(watch, masked, budget=24)
    for images in shown:
        half = len(images) // 2
        np.testing.assert_allclose(images[:half] + images[half:], 1, atol=1e-5)


def test_the_batch_has_no_influence(square: np.ndarray, masked: MaskedImages) -> None:
    maps = [run(ask(square), masked, batch=batch) for batch in (2, 8, 120)]
    np.testing.assert_allclose(maps[0], maps[1], atol=1e-5)
    np.testing.assert_allclose(maps[0], maps[2], atol=1e-5)


def test_seeds(square: np.ndarray, masked: MaskedImages) -> None:
    one, same, other = (run(ask(square), masked, seed=seed) for seed in (4, 4, 5))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize(("budget", "spent"), [(40, 40), (41, 40), (4, 4), (1, 4)])
def test_the_budget_is_kept(
    square: np.ndarray, masked: MaskedImages, budget: int, spent: int
) -> None:
    sizes: list[int] = []

    def count(images: np.ndarray) -> np.ndarray:
        sizes.append(len(images))
        return ask(square)(images)

    rng = np.random.default_rng(0)
    last(estimates(count, masked, budget, rng, batch=8))
    assert sum(sizes) == spent
    assert max(sizes) <= 8


def test_a_model_that_does_not_care_gives_a_flat_finite_map(masked: MaskedImages) -> None:
    found = run(lambda images: np.full(len(images), 0.25), masked)
    assert np.ptp(found) < 1e-3
    assert found.max() < 0.1


def test_scores_that_vary_by_rounding_alone_have_no_effect() -> None:
    rng = np.random.default_rng(0)
    scores = 0.3 + 1e-8 * rng.standard_normal((40, 2))
    assert regress(rng.random((40, 4, 4)), scores, np.ones((4, 4))) is None


def test_later_masks_lean_to_what_matters(square: np.ndarray, masked: MaskedImages) -> None:
    """And their complements away from it; masks of the first round do neither."""
    shown: list[np.ndarray] = []

    def watch(images: np.ndarray) -> np.ndarray:
        shown.append(images[: len(images) // 2, 0])
        return ask(square)(images)

    run(watch, masked, budget=400)
    masks = np.concatenate(shown)
    first, last = masks[:30], masks[-60:]
    assert abs(first[:, square].mean() - 0.5) < 0.12
    assert last[:, square].mean() > 0.8
    assert abs(last[:, ~square].mean() - 0.5) < 0.12


@pytest.mark.parametrize("multiple", [1, 4])
def test_rounds_are_made_of_whole_batches(
    square: np.ndarray, masked: MaskedImages, multiple: int
) -> None:
    """As models of a fixed batch need."""
    sizes: list[int] = []

    def count(images: np.ndarray) -> np.ndarray:
        sizes.append(len(images))
        return ask(square)(images)

    run(count, masked, budget=104, batch=8, multiple=multiple)
    assert sum(sizes) == 104
    assert all(size % (2 * multiple) == 0 for size in sizes)

"""Estimated gradients against those of functions that are known."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import cv2
import estimators
import numpy as np
import pytest

from ibisa_onnx.gradients.masked_images import MaskedImages, enlarge
from ibisa_onnx.methods.ibisa.finite_difference import FINITE_DIFFERENCE, MaskQueries
from ibisa_onnx.methods.ibisa.optimizer import Step, optimise, pathwise
from ibisa_onnx.methods.ibisa.options import Options
from ibisa_onnx.methods.masking import sigmoid
from ibisa_onnx.methods.problem import MaskGradient

SIDE, GRID, TEMPERATURE = 56, 28, 0.7
ESTIMATORS = {"finite-difference": FINITE_DIFFERENCE, **estimators.ESTIMATORS}
"""The package's, and those that the benchmark compares it with."""


@pytest.fixture
def masked() -> MaskedImages:
    """An image of ones over zeros: what the model sees is the mask."""
    image = np.ones((1, 1, SIDE, SIDE), np.float32)
    return MaskedImages(image, np.zeros_like(image))


@pytest.fixture
def weights() -> np.ndarray:
    """What each pixel adds to log p, [SIDE, SIDE]: smooth, of both signs, summing to about 1."""
    field = cv2.GaussianBlur(np.random.default_rng(1).standard_normal((SIDE, SIDE)), (0, 0), 9)
    return field / np.abs(field).sum()


def linear(weights: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """A model whose log p is linear in the mask."""
    return lambda images: np.exp((images[:, 0] * weights).sum((1, 2)) - 1)


def truth(masked: MaskedImages, weights: np.ndarray) -> Callable[..., np.ndarray]:
    """Its gradient at logits and noise [h, w]."""

    def gradient(masks: np.ndarray) -> MaskGradient:
        cotangent = np.repeat(weights[None, None].astype(np.float32), len(masks), 0)
        return MaskGradient(masked.vjp(cotangent, masks.shape[1:])[:, 0], np.ones(len(masks)))

    return at_one(pathwise(gradient, TEMPERATURE))


def at_one(step: Step) -> Callable[..., np.ndarray]:
    """A step of one answer, as a function of logits and noise [h, w]."""
    return lambda logits, noise: step(logits[None], noise[None]).values[0]


def estimated(
    name: str, ask: MaskQueries, plan: list[int], at: tuple[np.ndarray, np.ndarray]
) -> np.ndarray:
    """The gradient that an estimator finds at logits and noise [h, w]."""
    return at_one(ESTIMATORS[name].step(ask, plan, np.random.default_rng(0)))(*at)


def maps(name: str, ask: MaskQueries, plan: list[int]) -> Iterator[np.ndarray]:
    """The maps of the steps along an estimated gradient."""
    step = ESTIMATORS[name].step(ask, plan, np.random.default_rng(0))
    options = Options(steps=len(plan), grid=GRID)
    found = optimise(lambda _: step, 1, (SIDE, SIDE), options)
    return (keep for (keep,) in found)


def by_cell(gradient: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The derivatives with respect to shifts of the cells of a coarse grid."""
    basis = np.eye(shape[0] * shape[1], dtype=np.float32).reshape(-1, 1, *shape)
    return (enlarge(basis, gradient.shape)[:, 0] * gradient).sum((1, 2))


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    return float((one * other).sum() / np.sqrt((one**2).sum() * (other**2).sum()))


@pytest.fixture
def at() -> tuple[np.ndarray, np.ndarray]:
    """Logits and a mask's noise, [GRID, GRID]."""
    rng = np.random.default_rng(2)
    noise = 0.3 * rng.standard_normal((GRID, GRID))
    logits = cv2.GaussianBlur(rng.standard_normal((GRID, GRID)), (0, 0), 4)
    return logits.astype(np.float32), noise.astype(np.float32)


@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize("side", [2, 7])
def test_differences_are_the_gradient_seen_by_the_cells(
    masked: MaskedImages,
    weights: np.ndarray,
    at: tuple[np.ndarray, np.ndarray],
    side: int,
    coarse: bool,
) -> None:
    ask = MaskQueries(linear(weights), masked, TEMPERATURE, coarse=coarse)
    found, shape = estimated("finite-difference", ask, [side], at), (side, side)
    expected = by_cell(truth(masked, weights)(*at), shape)
    share = side * side / GRID**2
    coarse_cells = cv2.resize(found, shape, interpolation=cv2.INTER_AREA).ravel() / share
    assert found.shape == (GRID, GRID)
    # Interpolated to the logits and averaged again, what cells differ by is smaller.
    assert cosine(coarse_cells, expected) > (0.98 if side == 7 else 0.9)
    ratio = np.abs(coarse_cells).sum() / np.abs(expected).sum()
    assert 0.4 < ratio < 1.1


def test_large_central_steps_see_what_rounding_hides(
    masked: MaskedImages, weights: np.ndarray, at: tuple[np.ndarray, np.ndarray]
) -> None:
    exact = linear(weights)
    expected = truth(masked, weights)(*at)

    def rounded(images: np.ndarray) -> np.ndarray:
        return np.round(exact(images) * 100) / 100

    def found(*, coarse: bool) -> np.ndarray:
        ask = MaskQueries(rounded, masked, TEMPERATURE, coarse=coarse)
        return estimated("finite-difference", ask, [5], at)

    assert not found(coarse=False).any()
    assert cosine(found(coarse=True), expected) > 0.9


def test_many_random_directions_give_the_gradient(
    masked: MaskedImages, weights: np.ndarray, at: tuple[np.ndarray, np.ndarray]
) -> None:
    ask = MaskQueries(linear(weights), masked, TEMPERATURE)
    expected = truth(masked, weights)(*at)
    few, many = (cosine(estimated("spsa", ask, [count], at), expected) for count in (20, 2000))
    assert many > 0.9
    assert few < many


def test_the_score_function_has_the_gradient_of_the_expectation(
    masked: MaskedImages, weights: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a grid of four cells every mask can be counted."""
    monkeypatch.setattr(estimators, "CELLS", 2)
    ask = MaskQueries(linear(weights), masked, TEMPERATURE)
    logits = np.array([[0.5, -0.3], [1.0, 0.2]], np.float32)
    masks = np.array(list(itertools.product([0, 1], repeat=4)), np.float32).reshape(16, 2, 2)
    answers = ask.log_p(masks)

    def expectation(logits: np.ndarray) -> float:
        keep = sigmoid(logits)
        return float((np.prod(np.where(masks > 0, keep, 1 - keep), (1, 2)) * answers).sum())

    steps = 1e-3 * np.eye(4).reshape(4, 2, 2)
    slopes = [(expectation(logits + s) - expectation(logits - s)) / 2e-3 for s in steps]
    found = estimated("rloo", ask, [20000], (logits, logits))
    np.testing.assert_allclose(found.ravel(), slopes, atol=0.1 * np.abs(slopes).max())


@pytest.mark.parametrize("name", sorted(ESTIMATORS))
@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize(("allowance", "fixed"), [(4, 1), (14, 1), (89, 1), (390, 1), (388, 4)])
def test_no_more_is_asked_than_allowed(
    masked: MaskedImages,
    weights: np.ndarray,
    name: str,
    coarse: bool,
    allowance: int,
    fixed: int,
) -> None:
    """Calls of a fixed batch count as full."""
    asked: list[int] = []

    def count(images: np.ndarray) -> np.ndarray:
        asked.append(len(images))
        return linear(weights)(images)

    ask, estimator = MaskQueries(count, masked, TEMPERATURE, coarse, fixed), ESTIMATORS[name]
    plan = estimator.plan(ask, allowance, 10)
    for keep in maps(name, ask, plan):
        assert np.isfinite(keep).all()
    assert sum(asked) == sum(estimator.queries(ask, each) for each in plan)
    spent = sum(ask.cost(number) for number in asked)
    assert allowance * 0.5 <= spent <= allowance
    assert plan == sorted(plan)
    assert len(plan) == 10 or allowance < 89


@pytest.mark.parametrize("queries", [10**4, 10**7])
def test_no_cell_is_finer_than_the_logits(masked: MaskedImages, queries: int) -> None:
    ask = MaskQueries(lambda _: np.empty(0), masked, TEMPERATURE, grid=GRID)
    plan = ESTIMATORS["finite-difference"].plan(ask, queries, 10)
    assert (plan[0], plan[-1], len(plan)) == (2, GRID, 10)


@pytest.mark.parametrize("name", sorted(ESTIMATORS))
def test_its_maps_show_where_a_model_looks(name: str, masked: MaskedImages) -> None:
    inside = np.zeros((SIDE, SIDE), bool)
    inside[8:24, 30:50] = True
    ask = MaskQueries(
        lambda images: sigmoid(12 * (images[:, 0][:, inside].mean(1) - 0.5)),
        masked,
        TEMPERATURE,
    )
    *_, keep = maps(name, ask, ESTIMATORS[name].plan(ask, 400, 10))
    within = inside[::2, ::2]
    assert keep[within].mean() > 2 * keep[~within].mean()

"""Exact areas under the curve for a model that only looks at a square, and a loop to agree with."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from ibisa_onnx.errors import IbisaError
from ibisa_onnx.metrics import RISE, Curve, Protocol, blurred, deletion, insertion

SIDE = 12
SQUARE = np.zeros((SIDE, SIDE), bool)
SQUARE[3:7, 5:10] = True
SHARE = SQUARE.mean()
"""The part of the picture that the model looks at; its score is the part of that which it sees."""


def score(images: np.ndarray) -> np.ndarray:
    return images[:, 0, SQUARE].mean(1)


@pytest.fixture
def image() -> np.ndarray:
    return np.ones((1, SIDE, SIDE), np.float32)


def in_a_loop(
    first: np.ndarray, last: np.ndarray, saliency: np.ndarray, step: int
) -> tuple[np.ndarray, float]:
    """Pixel after pixel, as one would explain it."""
    order = sorted(range(saliency.size), key=lambda place: (-float(saliency.flat[place]), place))
    picture = first.copy()
    scores = [score(picture[None])[0]]
    while order:
        for place in order[:step]:
            picture.reshape(len(picture), -1)[:, place] = last.reshape(len(last), -1)[:, place]
        order = order[step:]
        scores.append(score(picture[None])[0])
    trapezoids = [(a + b) / 2 for a, b in itertools.pairwise(scores)]
    return np.array(scores), float(np.mean(trapezoids))


def test_the_perfect_map_has_the_areas_of_two_triangles(image: np.ndarray) -> None:
    zeros = np.zeros_like(image)
    # Up in a straight line while the square fills, then flat; the other way for deletion.
    inserted = insertion(score, image, SQUARE.astype(float), start=zeros, step=1)
    deleted = deletion(score, image, SQUARE.astype(float), step=1)
    assert inserted.auc == pytest.approx(1 - SHARE / 2, abs=1e-6)
    assert deleted.auc == pytest.approx(SHARE / 2, abs=1e-6)


def test_the_inverse_map_has_what_the_perfect_one_lacks(image: np.ndarray) -> None:
    inverse = 1 - SQUARE.astype(float)
    inserted = insertion(score, image, inverse, start=np.zeros_like(image), step=1)
    assert inserted.auc == pytest.approx(SHARE / 2, abs=1e-6)
    assert deletion(score, image, inverse, step=1).auc == pytest.approx(1 - SHARE / 2, abs=1e-6)


def test_random_maps_come_to_a_half(image: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    maps = [rng.random((SIDE, SIDE)) for _ in range(200)]
    zeros = np.zeros_like(image)
    areas = [insertion(score, image, each, start=zeros, step=4).auc for each in maps]
    assert np.mean(areas) == pytest.approx(0.5, abs=0.02)
    assert np.std(areas) < 0.1


@pytest.mark.parametrize("step", [1, 7, 50, SIDE * SIDE, 1000])
@pytest.mark.parametrize("batch", [1, 3, 64])
def test_any_step_agrees_with_the_loop(step: int, batch: int) -> None:
    rng = np.random.default_rng(step)
    first, last = rng.random((2, 3, SIDE, SIDE)).astype(np.float32)
    saliency = rng.random((SIDE, SIDE))
    scores, area = in_a_loop(first, last, saliency, step)
    forth = insertion(score, last, saliency, start=first, step=step, batch=batch)
    back = deletion(score, first, saliency, end=last, step=step, batch=batch)
    for curve in (forth, back):
        np.testing.assert_allclose(curve.scores, scores, atol=1e-6)
        assert curve.auc == pytest.approx(area, abs=1e-6)


def test_the_last_step_takes_what_is_left(image: np.ndarray) -> None:
    curve = insertion(score, image, SQUARE.astype(float), start=np.zeros_like(image), step=100)
    assert len(curve.scores) == 3  # 100 and 44 of 144 pixels
    assert curve.scores[-1] == 1


def test_rise_takes_its_own_steps_at_its_own_size() -> None:
    assert RISE.step(224, 224) == 224 * 8
    assert (RISE.kernel, RISE.sigma) == (11, 5)


@pytest.mark.parametrize("size", [(8, 7), (32, 32), (64, 48), (299, 299), (224, 320)])
def test_rise_takes_28_steps_at_any_size(size: tuple[int, int]) -> None:
    image = np.ones((1, *size), np.float32)
    curve = deletion(lambda images: images.mean((1, 2, 3)), image, np.zeros(size))
    assert 27 <= len(curve.scores) - 1 <= 28
    step = -(-size[0] * size[1] // 28) / (size[0] * size[1])
    np.testing.assert_allclose(np.diff(curve.scores)[:-1], -step, atol=1e-6)
    assert curve.scores[-1] == 0


def test_another_protocol_blurs_and_steps_otherwise() -> None:
    rng = np.random.default_rng(4)
    image = rng.random((3, 20, 20)).astype(np.float32)
    seen: list[np.ndarray] = []

    def watch(images: np.ndarray) -> np.ndarray:
        seen.extend(images)
        return images.mean((1, 2, 3))

    other = Protocol(kernel=5, sigma=1.0, steps=4)
    curve = insertion(watch, image, rng.random((20, 20)), protocol=other)
    assert len(curve.scores) == 5
    np.testing.assert_array_equal(seen[0], blurred(image, kernel=5, sigma=1.0))
    assert not np.array_equal(seen[0], blurred(image))
    assert len(deletion(watch, image, np.zeros((20, 20)), protocol=other).scores) == 5


@pytest.mark.parametrize("wrong", [{"kernel": 4}, {"kernel": 0}, {"sigma": 0.0}, {"steps": 0}])
def test_a_protocol_without_sense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(IbisaError, match=rf"{next(iter(wrong))} is .*; pass"):
        Protocol(**wrong)


def test_ties_go_by_position(image: np.ndarray) -> None:
    flat = np.full((SIDE, SIDE), 0.25)
    by_rows = np.arange(SIDE * SIDE)[::-1].reshape(SIDE, SIDE)
    expected = deletion(score, image, by_rows, step=1).scores
    np.testing.assert_array_equal(deletion(score, image, flat, step=1).scores, expected)


def test_ties_go_by_position_among_few_values_too() -> None:
    rng = np.random.default_rng(3)
    first, last = rng.random((2, 1, SIDE, SIDE)).astype(np.float32)
    saliency = rng.integers(0, 3, (SIDE, SIDE)).astype(np.float32)
    scores, _ = in_a_loop(first, last, saliency, 1)
    curve = deletion(score, first, saliency, end=last, step=1)
    np.testing.assert_allclose(curve.scores, scores, atol=1e-6)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int8, np.int64, np.float16, np.float32])
def test_the_type_of_the_map_makes_no_difference(image: np.ndarray, dtype: type) -> None:
    saliency = SQUARE.astype(dtype) if dtype is bool else (SQUARE * 100).astype(dtype)
    assert deletion(score, image, saliency, step=1).auc == pytest.approx(SHARE / 2, abs=1e-6)


def test_signed_maps_rank_from_above(image: np.ndarray) -> None:
    against = -SQUARE.astype(np.int8)
    assert deletion(score, image, against, step=1).auc == pytest.approx(1 - SHARE / 2, abs=1e-6)


def test_insertion_starts_from_the_blurred_picture() -> None:
    rng = np.random.default_rng(2)
    image = rng.random((3, 24, 24)).astype(np.float32)
    seen: list[np.ndarray] = []

    def watch(images: np.ndarray) -> np.ndarray:
        seen.extend(images)
        return np.zeros(len(images))

    insertion(watch, image, rng.random((24, 24)))
    np.testing.assert_array_equal(seen[0], blurred(image))
    np.testing.assert_array_equal(seen[-1], image)


def test_the_blur_is_an_eleven_pixel_gaussian() -> None:
    point = np.zeros((1, 21, 21), np.float32)
    point[0, 10, 10] = 1
    spread = blurred(point)[0]
    weights = np.exp(-(np.arange(-5, 6) ** 2) / 50)
    weights /= weights.sum()
    np.testing.assert_allclose(spread[5:16, 5:16], np.outer(weights, weights), atol=1e-6)
    assert spread.sum() == pytest.approx(1, abs=1e-5)


def test_area_by_hand() -> None:
    assert Curve(np.array([0.0, 1.0, 0.5])).auc == pytest.approx((0.5 + 0.75) / 2)


@pytest.mark.parametrize(
    ("saliency", "step", "says"),
    [
        (np.zeros((SIDE, SIDE + 1)), 1, "the map has shape"),
        (np.full((SIDE, SIDE), np.nan), 1, "NaN"),
        (np.zeros((SIDE, SIDE)), 0, "1 pixel or more"),
    ],
)
def test_wrong_wishes_are_refused(
    image: np.ndarray, saliency: np.ndarray, step: int, says: str
) -> None:
    with pytest.raises(IbisaError, match=says):
        deletion(score, image, saliency, step=step)

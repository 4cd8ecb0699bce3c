"""Both curves of degradation against a loop over tiles."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from ibisa_onnx.errors import IbisaError
from ibisa_onnx.metrics import Degradation, Subject, degradation
from ibisa_onnx.metrics.tiles import cut


def in_a_loop(subject: Subject, saliency: np.ndarray, tile: int, *, least: bool) -> list[float]:
    """The score after each tile; the last row and column of tiles take what is left."""
    height, width = saliency.shape
    corners = [
        (row, column)
        for row in range(0, height - tile + 1, tile)
        for column in range(0, width - tile + 1, tile)
    ]

    def pixels(corner: tuple[int, int]) -> tuple[slice, slice]:
        row, column = corner
        last_row, last_column = row + 2 * tile > height, column + 2 * tile > width
        return (
            slice(row, height if last_row else row + tile),
            slice(column, width if last_column else column + tile),
        )

    def worth(corner: tuple[int, int]) -> float:
        mean = float(saliency[pixels(corner)].mean())
        return mean if least else -mean

    picture = subject.image.copy()
    scores = [float(subject.score(picture[None])[0])]
    for corner in sorted(corners, key=worth):
        rows, columns = pixels(corner)
        picture[:, rows, columns] = subject.blank[:, rows, columns]  # type: ignore[index]
        scores.append(float(subject.score(picture[None])[0]))
    return scores


@pytest.fixture
def noise() -> Subject:
    rng = np.random.default_rng(0)
    image, blank, weights = rng.normal(size=(3, 2, 13, 18)).astype(np.float32)
    return Subject(lambda images: np.tanh((images * weights).sum((1, 2, 3)) / 9), image, blank)


@pytest.mark.parametrize("tile", [1, 3, 5, 13])
def test_the_curves_agree_with_loops(noise: Subject, tile: int) -> None:
    saliency = np.random.default_rng(tile).random((13, 18))
    curves = degradation(noise, saliency, tile=tile, steps=1000)
    morf = in_a_loop(noise, saliency, tile, least=False)
    lerf = in_a_loop(noise, saliency, tile, least=True)
    np.testing.assert_allclose(curves.morf, morf, atol=1e-6)
    np.testing.assert_allclose(curves.lerf, lerf, atol=1e-6)
    np.testing.assert_allclose(curves.shares, np.linspace(0, 1, len(morf)))
    below = [(a + b) / 2 for a, b in itertools.pairwise(morf)]
    above = [(a + b) / 2 for a, b in itertools.pairwise(lerf)]
    assert curves.area == pytest.approx(np.mean(above) - np.mean(below), abs=1e-6)


def test_fewer_steps_are_points_of_the_same_curves(noise: Subject) -> None:
    saliency = np.random.default_rng(1).random((13, 18))
    every = degradation(noise, saliency, tile=3, steps=24)
    few = degradation(noise, saliency, tile=3, steps=5)
    places = [0, 5, 10, 14, 19, 24]  # 24 tiles in five steps, rounded
    np.testing.assert_allclose(few.shares, np.array(places) / 24)
    np.testing.assert_allclose(few.morf, every.morf[places])
    np.testing.assert_allclose(few.lerf, every.lerf[places])


def test_uneven_steps_count_by_their_width() -> None:
    curves = Degradation(
        np.array([0, 0.25, 1]), np.array([1.0, 0.0, 0.0]), np.array([1.0, 1.0, 0.0])
    )
    assert curves.area == pytest.approx((0.25 + 0.75 / 2) - 0.25 / 2)


def test_ties_go_by_position_from_both_ends(noise: Subject) -> None:
    curves = degradation(noise, np.zeros((13, 18), np.uint8), tile=3)
    np.testing.assert_array_equal(curves.morf, curves.lerf)
    by_rows = np.arange(13 * 18)[::-1].reshape(13, 18)
    np.testing.assert_array_equal(curves.morf, degradation(noise, by_rows, tile=3).morf)


@pytest.mark.parametrize(
    ("size", "side"), [((224, 224), 14), ((224, 320), 14), ((32, 32), 2), ((7, 9), 1)]
)
def test_tiles_are_a_sixteenth_of_the_side(size: tuple[int, int], side: int) -> None:
    assert cut(size).count == (size[0] // side) * (size[1] // side)


def test_the_model_is_not_asked_more_than_told(noise: Subject) -> None:
    passes: list[int] = []

    def count(images: np.ndarray) -> np.ndarray:
        passes.append(len(images))
        return noise.score(images)

    watched = Subject(count, noise.image, noise.blank)
    degradation(watched, np.zeros((13, 18)), steps=6)
    assert sum(passes) == 2 * 7
    degradation(watched, np.zeros((13, 18)))
    assert sum(passes) == 2 * 7 + 2 * 29


@pytest.mark.parametrize(
    ("wrong", "says"),
    [({"tile": 0}, "tile is 0"), ({"tile": 14}, "tile is 14"), ({"steps": 0}, "1 or more")],
)
def test_wrong_wishes_are_refused(noise: Subject, wrong: dict[str, int], says: str) -> None:
    with pytest.raises(IbisaError, match=says):
        degradation(noise, np.zeros((13, 18)), **wrong)  # type: ignore[arg-type]

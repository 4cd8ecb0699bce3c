"""Sensitivity-n is 1 for the true parts of a sum, and agrees with a loop elsewhere."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ibisa_onnx.errors import IbisaError
from ibisa_onnx.metrics import Subject, sensitivity_n

SIZE = (20, 26)
RNG = np.random.default_rng(0)
WEIGHTS = RNG.normal(size=(2, *SIZE))
PARTS = (WEIGHTS * 1.0).sum(0)
"""What each pixel of a white picture adds to a linear score."""


def linear(images: np.ndarray) -> np.ndarray:
    return (images * WEIGHTS).sum((1, 2, 3))


@pytest.fixture
def white() -> Subject:
    return Subject(linear, np.ones((2, *SIZE), np.float32))


@pytest.mark.parametrize("tile", [1, 3, None, 20])
@pytest.mark.parametrize("scale", [1, 1e-6, 255])
def test_the_parts_of_a_sum_have_it_exactly(white: Subject, tile: int | None, scale: float) -> None:
    found = sensitivity_n(white, PARTS * scale, np.random.default_rng(1), tile=tile)
    if tile == 20:  # one tile, and so one set
        assert np.isnan(found.correlations).all()
        assert found.mean == 0
        return
    np.testing.assert_allclose(found.correlations, 1, atol=1e-9)
    assert found.mean == pytest.approx(1, abs=1e-9)
    against = sensitivity_n(white, -PARTS * scale, np.random.default_rng(1), tile=tile)
    np.testing.assert_allclose(against.correlations, -1, atol=1e-9)


def test_sets_are_as_large_as_told_and_each_drawn_anew(white: Subject) -> None:
    seen: list[np.ndarray] = []

    def watch(images: np.ndarray) -> np.ndarray:
        seen.extend(images)
        return linear(images)

    subject = Subject(watch, white.image)
    rng = np.random.default_rng(2)
    found = sensitivity_n(subject, PARTS, rng, sizes=(4, 9), subsets=25, tile=1)
    assert found.sizes.tolist() == [4, 9]
    assert len(seen) == 1 + 2 * 25
    np.testing.assert_array_equal(seen[0], white.image)
    assert [int((picture[0] == 0).sum()) for picture in seen[1:]] == [4] * 25 + [9] * 25
    assert len({picture.tobytes() for picture in seen}) == 51
    gone = np.mean([picture[0] == 0 for picture in seen[1:]], axis=0)
    assert gone.any(axis=0).all()
    assert gone.any(axis=1).all()


@pytest.mark.parametrize("tile", [1, 4])
def test_it_agrees_with_a_loop(tile: int) -> None:
    rng = np.random.default_rng(3)
    saliency = rng.random(SIZE)
    blank = np.full((2, 1, 1), -1, np.float32)
    asked: list[tuple[np.ndarray, float]] = []

    def curved(images: np.ndarray) -> np.ndarray:
        scores = np.tanh(linear(images) / 20)
        asked.extend(zip(images, scores, strict=True))
        return scores

    subject = Subject(curved, np.ones((2, *SIZE), np.float32), blank)
    found = sensitivity_n(subject, saliency, rng, sizes=(2, 12), subsets=15, tile=tile)
    _, whole = asked[0]
    for turn in range(2):
        sums, losses = [], []
        for picture, score in asked[1 + 15 * turn : 1 + 15 * (turn + 1)]:
            total = 0.0
            for row in range(SIZE[0]):
                for column in range(SIZE[1]):
                    if picture[0, row, column] == -1:
                        total += saliency[row, column]
            sums.append(total)
            losses.append(whole - score)
        expected = np.corrcoef(sums, losses)[0, 1]
        assert found.correlations[turn] == pytest.approx(expected, abs=1e-6)
    assert found.mean == pytest.approx(found.correlations.mean())


def test_a_map_that_tells_nothing_apart_has_none_of_it(white: Subject) -> None:
    # A tenth is not exact: its sums differ by rounding, which must not be taken for a pattern.
    found = sensitivity_n(white, np.full(SIZE, 0.1), np.random.default_rng(4), tile=1)
    assert found.mean == 0
    np.testing.assert_array_equal(found.correlations, 0)


def test_a_model_that_tells_nothing_apart_says_nothing() -> None:
    only_corner = Subject(lambda images: images[:, 0, 0, 0], np.ones((1, *SIZE), np.float32))
    corner = np.zeros(SIZE)
    corner[0, 0] = 1
    rng = np.random.default_rng(5)
    found = sensitivity_n(only_corner, corner, rng, sizes=(1, 400), subsets=10, tile=1)
    assert math.isnan(found.correlations[0])  # none of ten single pixels is the corner
    assert found.correlations[1] == pytest.approx(1)
    assert found.mean == pytest.approx(1)


def test_sizes_go_from_one_tile_to_four_fifths(white: Subject) -> None:
    found = sensitivity_n(white, PARTS, np.random.default_rng(6), tile=2)
    assert found.sizes.tolist() == [1, 3, 10, 33, 104]  # of 130


def test_there_are_twenty_sets_of_a_size_unless_told(white: Subject) -> None:
    passes: list[int] = []

    def count(images: np.ndarray) -> np.ndarray:
        passes.append(len(images))
        return linear(images)

    sensitivity_n(Subject(count, white.image), PARTS, np.random.default_rng(8))
    assert sum(passes) == 1 + 5 * 20


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"sizes": (0,)}, "from 1 to 520"),
        ({"sizes": (521,)}, "from 1 to 520"),
        ({"sizes": ()}, "from 1 to 520"),
        ({"subsets": 1}, "2 or more"),
        ({"tile": 0}, "tile is 0"),
    ],
)
def test_wrong_wishes_are_refused(white: Subject, wrong: dict[str, object], says: str) -> None:
    wishes = {"tile": 1, **wrong}
    with pytest.raises(IbisaError, match=says):
        sensitivity_n(white, PARTS, np.random.default_rng(7), **wishes)  # type: ignore[arg-type]

"""The verdict is right where the truth is planted, whatever hides the pixels and whoever draws."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import cv2
import numpy as np
import pytest

from ibisa_onnx.errors import OptionError
from ibisa_onnx.metrics import (
    MEAN,
    NOISE,
    ZEROS,
    Comparison,
    Subject,
    Verdict,
    compare,
    deletion_metric,
    judge,
)

SIDE = 40
ROWS, COLUMNS = np.mgrid[:SIDE, :SIDE]
TEXTURE = cv2.GaussianBlur(np.random.default_rng(7).random((SIDE, SIDE)), (0, 0), 2)
TEXTURE = (TEXTURE - TEXTURE.min()) / np.ptp(TEXTURE)

Planted = tuple[Subject, np.ndarray]
"""A subject, and the pixels that its model looks at."""


def logistic(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-values))


def disc(row: int, column: int, radius: int) -> np.ndarray:
    return (ROWS - row) ** 2 + (COLUMNS - column) ** 2 <= radius**2


def red_disc(region: np.ndarray) -> Planted:
    """A red disc on grey texture; the model looks for red there."""
    image = np.stack([0.6 * TEXTURE] * 3)
    image[:, region] = [[0.95], [0.1], [0.1]]
    red = lambda images: (images[:, 0] - images[:, 1])[:, region].mean(1)  # noqa: E731
    return Subject(lambda images: logistic(12 * (red(images) - 0.4)), image, batch=64), region


def checkers() -> Planted:
    """A pattern of dark and light pixels, which a blur takes away and a colour does, too."""
    region = np.zeros((SIDE, SIDE), bool)
    region[10:22, 18:34] = True
    image = np.stack([0.2 + 0.5 * TEXTURE] * 3)
    image[:, region] = np.where((ROWS + COLUMNS)[region] % 2, 0.9, 0.1)

    def score(images: np.ndarray) -> np.ndarray:
        steps = np.abs(np.diff(images[:, 0], axis=2))[:, 10:22, 18:33].mean((1, 2))
        return logistic(14 * (steps - 0.35))

    return Subject(score, image, batch=64), region


def digit() -> Planted:
    """Black strokes on white, in a picture without texture: zeros hide nothing of them."""
    region = np.zeros((SIDE, SIDE), bool)
    region[8:32, 12:16] = region[8:12, 12:28] = region[19:23, 12:26] = True
    image = np.ones((3, SIDE, SIDE))
    image[:, region] = 0
    dark = lambda images: 1 - images.mean(1)[:, region].mean(1)  # noqa: E731
    return Subject(lambda images: logistic(12 * (dark(images) - 0.6)), image, batch=64), region


def dent() -> Planted:
    """A dark dent on bright metal, and a model to which any dark spot is one."""
    region = disc(24, 14, 4)
    image = np.stack([0.55 + 0.2 * TEXTURE] * 3)
    image[:, region] = 0.12

    def score(images: np.ndarray) -> np.ndarray:
        grey = np.ascontiguousarray(images.mean(1).transpose(1, 2, 0))
        darkest = cv2.blur(grey, (5, 5)).reshape(-1, len(images)).min(0)
        return logistic(25 * (0.3 - darkest))

    return Subject(score, image, batch=64), region


MODELS: dict[str, Callable[[], Planted]] = {
    "red disc": lambda: red_disc(disc(16, 24, 7)),
    "small disc": lambda: red_disc(disc(30, 9, 3)),
    "large disc": lambda: red_disc(disc(20, 20, 15)),
    "checkers": checkers,
    "digit": digit,
    "dent": dent,
}


@pytest.fixture(params=MODELS)
def planted(request: pytest.FixtureRequest) -> Planted:
    return MODELS[request.param]()


def smooth(map: np.ndarray, sigma: float) -> np.ndarray:
    return cv2.GaussianBlur(map.astype(np.float64), (0, 0), sigma)


def good_maps(region: np.ndarray) -> Iterator[np.ndarray]:
    """The perfect map; softer, noisier, both."""
    noise = np.random.default_rng(1).standard_normal(region.shape)
    yield region
    yield smooth(region, 2)
    yield region + 0.5 * noise
    yield smooth(region + noise, 1)


@pytest.mark.parametrize("seed", range(3))
def test_right_maps_may_be_trusted(planted: Planted, seed: int) -> None:
    subject, region = planted
    found = [judge(compare(subject, map, seed=seed)) for map in good_maps(region)]
    assert [each.trusted for each in found] == [True] * 4, found


@pytest.mark.parametrize("seed", range(3))
def test_inverted_maps_are_worse_than_random_ones(planted: Planted, seed: int) -> None:
    subject, region = planted
    for map in (1 - smooth(region, 1.5), -smooth(region, 2)):
        found = judge(compare(subject, map, seed=seed))
        assert found.trusted is False
        assert "worse than smooth random maps" in found.text


def test_random_maps_are_not_trusted_but_by_chance(planted: Planted) -> None:
    """One map in 21 is above 20 of its kind."""
    subject, _ = planted
    trusted = 0
    for seed in range(12):
        noise = np.random.default_rng(seed).standard_normal((SIDE, SIDE))
        map = smooth(noise, 3) if seed % 3 else noise
        trusted += bool(judge(compare(subject, map, seed=seed)).trusted)
    assert trusted <= 2


def test_a_map_of_something_else_is_not_trusted(planted: Planted) -> None:
    subject, region = planted
    elsewhere = smooth(np.roll(region, (SIDE // 2, SIDE // 2), (0, 1)), 1.5)
    assert judge(compare(subject, elsewhere)).trusted is False


@pytest.mark.parametrize("name", ["digit", "dent"])
def test_what_zeros_say_is_not_heard(name: str) -> None:
    """Black is evidence to these models, so that zeros hide nothing of the answer."""
    subject, region = MODELS[name]()
    (zeros,) = compare(subject, region, imputations=[ZEROS])
    assert not zeros.decides
    assert deletion_metric()(subject, region) > 0.9  # as bad as can be, of a perfect map
    assert judge(compare(subject, region)).trusted is True


def test_random_maps_and_their_reverses_stand_beside_it() -> None:
    subject, region = MODELS["red disc"]()
    (found,) = compare(subject, smooth(region, 2), imputations=[MEAN], draws=4)
    assert len(found.random) == 8
    assert sorted(found.random) == sorted(-each for each in found.random)
    assert found.beaten == 8
    (inverted,) = compare(subject, -smooth(region, 2), imputations=[MEAN], draws=4)
    assert inverted.area == pytest.approx(-found.area, abs=1e-6)
    with pytest.raises(OptionError, match="draws is 0"):
        compare(subject, region, draws=0)


def test_a_blind_model_cannot_be_judged() -> None:
    subject, region = MODELS["red disc"]()
    blind = Subject(lambda images: np.full(len(images), 0.3), subject.image)
    found = judge(compare(blind, region))
    assert found.trusted is None
    assert "may not depend on this image" in found.text


def comparison(name: str, area: float, change: float = 1.0) -> Comparison:
    return Comparison(name, area, tuple(np.linspace(-0.2, 0.2, 20)), change)


GOOD, BAD, NEITHER, NOTHING = 0.5, -0.5, 0.1, 0.0


@pytest.mark.parametrize(
    ("areas", "trusted"),
    [
        ((GOOD, GOOD, GOOD, GOOD), True),
        ((GOOD, GOOD, GOOD, NEITHER), True),
        ((GOOD, GOOD, NEITHER, NEITHER), False),
        ((GOOD, GOOD, GOOD, BAD), False),
        ((NEITHER,) * 4, False),
        ((GOOD, GOOD), True),
        ((GOOD, NEITHER), False),
        ((GOOD,), None),
        ((BAD,), False),
        ((), None),
    ],
)
def test_most_imputations_must_agree_and_none_be_against_it(
    areas: tuple[float, ...], trusted: bool | None
) -> None:
    deciding = [comparison(str(place), area) for place, area in enumerate(areas)]
    others = [comparison("keeps the answer", BAD, change=0.04)]
    assert judge([*deciding, *others]).trusted is trusted


FINE = [comparison("mean", GOOD), comparison("noise", GOOD)]


@pytest.mark.parametrize(
    ("words", "trusted", "said"),
    [
        ({}, True, "under 2 of 2 imputations"),
        ({"stability": 0.82, "fidelity": True}, True, "and is stable (0.82)"),
        ({"stability": 0.31}, False, "stability 0.31; at least 0.5"),
        ({"fidelity": False}, False, "does not match the deployed model"),
        ({"flat": True}, False, "it is flat"),
    ],
)
def test_what_else_a_trusted_map_must_be(
    words: dict[str, object], trusted: bool, said: str
) -> None:
    found = judge(FINE, **words)  # type: ignore[arg-type]
    assert found.trusted is trusted
    assert said in found.text
    assert isinstance(found, Verdict)
    assert "\n" not in found.text


def test_a_lead_that_is_worth_nothing_is_none() -> None:
    """All random maps are beaten, by less than the margin."""
    close = [Comparison(each.name, 0.04, (-0.01, 0.01), 1.0) for each in (MEAN, NOISE)]
    assert judge(close).trusted is False

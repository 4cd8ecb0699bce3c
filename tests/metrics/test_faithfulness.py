"""Exact values of every faithfulness metric for a model that only looks at a square."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from ibisa_onnx.errors import IbisaError, OptionError
from ibisa_onnx.metrics import (
    AVERAGE_DROP,
    AVERAGE_INCREASE,
    DEGRADATION,
    DELETION,
    FAITHFULNESS,
    INSERTION,
    INSERTION_MINUS_DELETION,
    SENSITIVITY_N,
    FaithfulnessMetric,
    Protocol,
    Subject,
    degradation_metric,
    deletion_metric,
    difference_metric,
    faithfulness,
    insertion_metric,
    metric_named,
    sensitivity_metric,
    sensitivity_n,
)

SIDE = 12
BY_PIXEL = Protocol(steps=SIDE * SIDE)

every_metric = pytest.mark.parametrize("metric", FAITHFULNESS, ids=lambda metric: metric.name)


@pytest.fixture
def distracted(square: np.ndarray, subject: Subject) -> Subject:
    """A model that likes the square and half as much dislikes all else: 0.5 for the picture."""
    return replace(
        subject,
        score=lambda images: images[:, 0, square].mean(1) - images[:, 0, ~square].mean(1) / 2,
    )


@pytest.fixture
def photograph() -> Subject:
    """A picture of noise, a blank that is not black, and a score that is not linear."""
    rng = np.random.default_rng(5)
    weights = rng.normal(size=(3, SIDE, SIDE + 3))
    return Subject(
        score=lambda images: 1 / (1 + np.exp(-(images * weights).sum((1, 2, 3)) / 4)),
        image=rng.normal(size=(3, SIDE, SIDE + 3)).astype(np.float32),
        blank=rng.normal(size=(3, 1, 1)).astype(np.float32),
        batch=5,
    )


def blurred_in_a_loop(image: np.ndarray) -> np.ndarray:
    """A Gaussian of sigma 5 over 11 pixels; beyond the border all is zero."""
    weights = [math.exp(-(offset**2) / 50) for offset in range(-5, 6)]
    channels, height, width = image.shape
    result = np.zeros(image.shape)
    for channel in range(channels):
        for row in range(height):
            for column in range(width):
                for down in range(-5, 6):
                    for right in range(-5, 6):
                        if 0 <= row + down < height and 0 <= column + right < width:
                            there = image[channel, row + down, column + right]
                            weight = weights[down + 5] * weights[right + 5]
                            result[channel, row, column] += weight * there
    return result / sum(weights) ** 2


def area_in_a_loop(
    subject: Subject, first: np.ndarray, last: np.ndarray, saliency: np.ndarray, step: int
) -> float:
    places = [divmod(place, saliency.shape[1]) for place in range(saliency.size)]
    places.sort(key=lambda place: -saliency[place])
    picture = first.astype(np.float32)
    scores = [float(subject.score(picture[None])[0])]
    while places:
        for row, column in places[:step]:
            for channel in range(len(picture)):
                picture[channel, row, column] = last[channel, row, column]
        places = places[step:]
        scores.append(float(subject.score(picture[None])[0]))
    halves = [(before + after) / 2 for before, after in itertools.pairwise(scores)]
    return sum(halves) / len(halves)


def test_the_perfect_map_inserts_the_square_alone(subject: Subject, square: np.ndarray) -> None:
    blurred = blurred_in_a_loop(subject.image)[0, square]
    outside = int((~square).sum())
    rising = [blurred.mean() + (1 - blurred)[:count].sum() / 20 for count in range(21)]
    perfect, inverse = rising + [1.0] * outside, rising[:1] * outside + rising
    for saliency, scores in ((square, perfect), (~square, inverse)):
        expected = np.mean([(before + after) / 2 for before, after in itertools.pairwise(scores)])
        found = insertion_metric(BY_PIXEL)(subject, saliency)
        assert found == pytest.approx(expected, abs=1e-6)


def test_the_perfect_map_deletes_in_a_straight_line(
    subject: Subject, square: np.ndarray, share: float
) -> None:
    assert deletion_metric(BY_PIXEL)(subject, square) == pytest.approx(share / 2, abs=1e-6)
    assert deletion_metric(BY_PIXEL)(subject, ~square) == pytest.approx(1 - share / 2, abs=1e-6)


def test_the_difference_is_one_less_the_other(photograph: Subject) -> None:
    saliency = np.random.default_rng(1).random(photograph.size)
    expected = INSERTION(photograph, saliency) - DELETION(photograph, saliency)
    assert INSERTION_MINUS_DELETION(photograph, saliency) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_insertion_and_deletion_agree_with_loops(photograph: Subject, seed: int) -> None:
    saliency = np.random.default_rng(seed).integers(0, 40, photograph.size)
    image, blank = photograph.image, np.broadcast_to(photograph.blank, photograph.image.shape)
    step = math.ceil(saliency.size / 28)
    inserted = area_in_a_loop(photograph, blurred_in_a_loop(image), image, saliency, step)
    deleted = area_in_a_loop(photograph, image, blank, saliency, step)
    assert INSERTION(photograph, saliency) == pytest.approx(inserted, abs=1e-6)
    assert DELETION(photograph, saliency) == pytest.approx(deleted, abs=1e-6)


def test_degradation_of_the_perfect_map_is_all_but_the_square(
    subject: Subject, square: np.ndarray, share: float
) -> None:
    by_pixel = degradation_metric(tile=1, steps=SIDE * SIDE)
    assert by_pixel(subject, square) == pytest.approx(1 - share, abs=1e-6)
    assert by_pixel(subject, ~square) == pytest.approx(share - 1, abs=1e-6)
    assert by_pixel(subject, np.full((SIDE, SIDE), 7)) == 0


def test_the_normalized_degradation_does_not_depend_on_the_scale(
    subject: Subject, square: np.ndarray, share: float
) -> None:
    louder = replace(subject, score=lambda images: 3 * subject.score(images) + 1)
    by_pixel = degradation_metric(tile=1, steps=SIDE * SIDE)
    normalized = degradation_metric(tile=1, steps=SIDE * SIDE, normalized=True)
    assert by_pixel(louder, square) == pytest.approx(3 * (1 - share), abs=1e-5)
    assert normalized(louder, square) == pytest.approx(1 - share, abs=1e-5)
    flat = replace(subject, score=lambda images: np.ones(len(images)))
    with pytest.raises(IbisaError, match="nothing to degrade"):
        normalized(flat, square)


@pytest.mark.parametrize(("value", "drop"), [(0.0, 1.0), (0.25, 0.75), (0.5, 0.5), (1.0, 0.0)])
def test_the_drop_is_what_the_map_hides(
    subject: Subject, square: np.ndarray, value: float, drop: float
) -> None:
    saliency = square * value
    saliency[0, 0], saliency[0, 1] = 1, 0  # the range that it is stretched to, off the square
    assert AVERAGE_DROP(subject, saliency) == pytest.approx(drop, abs=1e-6)
    assert AVERAGE_DROP(subject, 10 * saliency - 3) == pytest.approx(drop, abs=1e-6)
    assert AVERAGE_INCREASE(subject, saliency) == 0


def test_the_drop_fades_to_the_blank(subject: Subject, square: np.ndarray) -> None:
    grey = replace(subject, blank=0.5)
    assert AVERAGE_DROP(grey, ~square) == pytest.approx(0.5, abs=1e-6)


def test_a_map_that_hides_the_distraction_raises_the_score(
    distracted: Subject, square: np.ndarray
) -> None:
    assert AVERAGE_INCREASE(distracted, square) == 1
    assert AVERAGE_DROP(distracted, square) == 0  # a rise is no drop
    assert AVERAGE_INCREASE(distracted, ~square) == 0
    assert AVERAGE_DROP(distracted, ~square) == pytest.approx(2)  # 0.5 to -0.5, of 0.5


def test_a_constant_map_shows_nothing(subject: Subject) -> None:
    assert AVERAGE_DROP(subject, np.full((SIDE, SIDE), 3)) == 1


def test_there_is_no_drop_from_nothing(subject: Subject, square: np.ndarray) -> None:
    with pytest.raises(IbisaError, match="average drop requires a score above 0"):
        AVERAGE_DROP(replace(subject, score=lambda images: np.zeros(len(images))), square)


def test_random_maps_are_worth_nothing(subject: Subject) -> None:
    rng = np.random.default_rng(0)
    maps = [rng.random((SIDE, SIDE)) for _ in range(100)]
    assert np.mean([DELETION(subject, each) for each in maps]) == pytest.approx(0.5, abs=0.03)
    by_pixel = degradation_metric(tile=1, steps=36)
    assert np.mean([by_pixel(subject, each) for each in maps]) == pytest.approx(0, abs=0.03)
    values = [SENSITIVITY_N(subject, each, rng) for each in maps]
    assert np.mean(values) == pytest.approx(0, abs=0.05)


@every_metric
def test_the_right_map_is_better_than_its_inverse(
    metric: FaithfulnessMetric, distracted: Subject, square: np.ndarray
) -> None:
    right, wrong = metric(distracted, square), metric(distracted, ~square)
    assert (right > wrong) == metric.higher_is_better
    assert right != wrong


@every_metric
@pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.float16, np.float32, np.float64])
def test_bytes_are_worth_what_other_numbers_are(
    metric: FaithfulnessMetric, photograph: Subject, dtype: type
) -> None:
    saliency = np.random.default_rng(2).integers(0, 256, photograph.size, np.uint8)
    saliency[0, :4] = [0, 127, 128, 255]
    assert metric(photograph, saliency.astype(dtype)) == metric(photograph, saliency)


@every_metric
def test_units_of_the_map_do_not_matter(metric: FaithfulnessMetric, photograph: Subject) -> None:
    saliency = np.random.default_rng(3).random(photograph.size)
    expected = metric(photograph, saliency)
    for scale in (1e-30, 1 / 255, 1e30):
        assert metric(photograph, saliency * scale) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("metric", [INSERTION, DELETION, INSERTION_MINUS_DELETION])
def test_only_ranks_matter_where_pixels_are_ranked(
    metric: FaithfulnessMetric, photograph: Subject
) -> None:
    saliency = np.random.default_rng(4).normal(size=photograph.size)
    expected = metric(photograph, saliency)
    assert metric(photograph, np.exp(saliency) ** 3) == expected
    assert metric(photograph, np.sqrt(np.exp(saliency))) == expected


@pytest.mark.parametrize("metric", [DELETION, AVERAGE_DROP, degradation_metric(tile=1)])
def test_places_do_not_matter_where_there_are_no_neighbours(
    metric: FaithfulnessMetric, photograph: Subject
) -> None:
    rng = np.random.default_rng(6)
    saliency = rng.random(photograph.size)
    order = rng.permutation(saliency.size)
    back = np.argsort(order)

    def moved(planes: np.ndarray, places: np.ndarray) -> np.ndarray:
        return planes.reshape(*planes.shape[:-2], -1)[..., places].reshape(planes.shape)

    elsewhere = replace(
        photograph,
        score=lambda images: photograph.score(moved(images, back)),
        image=moved(photograph.image, order),
    )
    expected = metric(photograph, saliency)
    assert metric(elsewhere, moved(saliency, order)) == pytest.approx(expected, abs=1e-9)


@every_metric
def test_a_metric_names_itself(metric: FaithfulnessMetric) -> None:
    assert metric_named(metric.name) is metric
    assert metric_named(metric.name.upper().replace(" ", "-")) is metric
    assert metric.description
    assert metric.limits[0] < metric.limits[1]


def test_names_differ() -> None:
    assert len({metric.name for metric in FAITHFULNESS}) == len(FAITHFULNESS)


def test_a_name_that_is_not_is_refused_with_those_that_are() -> None:
    with pytest.raises(
        OptionError, match=r"unknown metric 'entropy'; choose one of: .*'insertion', 'deletion'"
    ):
        metric_named("entropy")


def test_all_at_once_is_one_after_the_other(photograph: Subject) -> None:
    saliency = np.random.default_rng(7).random(photograph.size)
    expected = {metric.name: metric(photograph, saliency) for metric in FAITHFULNESS}
    assert faithfulness(photograph, saliency) == pytest.approx(expected, abs=1e-12)


def test_the_difference_costs_nothing_beside_both(photograph: Subject) -> None:
    passes: list[int] = []

    def count(images: np.ndarray) -> np.ndarray:
        passes.append(len(images))
        return photograph.score(images)

    saliency = np.random.default_rng(8).random(photograph.size)
    metrics = (INSERTION, DELETION, INSERTION_MINUS_DELETION, AVERAGE_DROP, AVERAGE_INCREASE)
    faithfulness(replace(photograph, score=count), saliency, metrics)
    # 180 pixels in steps of 7 are 26 steps; both know the whole picture; one weighted by the map.
    assert sum(passes) == 27 + 26 + 1
    assert max(passes) <= photograph.batch


def test_the_same_call_gives_the_same_number(photograph: Subject) -> None:
    saliency = np.random.default_rng(9).random(photograph.size)
    first = SENSITIVITY_N(photograph, saliency)
    assert SENSITIVITY_N(photograph, saliency) == first
    assert SENSITIVITY_N(photograph, saliency, np.random.default_rng(1)) != first


@every_metric
@pytest.mark.parametrize(
    ("saliency", "says"),
    [
        (np.zeros((SIDE, SIDE)), "the map has shape"),
        (np.full((SIDE, SIDE + 3), np.nan), "NaN"),
        (np.zeros((1, SIDE, SIDE + 3)), "one value per pixel"),
    ],
)
def test_wrong_maps_are_refused(
    metric: FaithfulnessMetric, photograph: Subject, saliency: np.ndarray, says: str
) -> None:
    with pytest.raises(IbisaError, match=says):
        metric(photograph, saliency)


@every_metric
def test_a_model_without_a_score_is_refused(
    metric: FaithfulnessMetric, photograph: Subject
) -> None:
    lost = replace(photograph, score=lambda images: np.full(len(images), np.nan))
    with pytest.raises(IbisaError, match="score is nan"):
        metric(lost, np.ones(photograph.size))


@every_metric
def test_a_constant_map_has_a_value(metric: FaithfulnessMetric, photograph: Subject) -> None:
    values = {metric(photograph, np.full(photograph.size, level)) for level in (0, 0.1, 7)}
    assert len(values) == 1
    assert math.isfinite(values.pop())


@every_metric
def test_no_call_of_the_model_has_more_than_a_batch(
    metric: FaithfulnessMetric, photograph: Subject
) -> None:
    passes: list[int] = []

    def count(images: np.ndarray) -> np.ndarray:
        passes.append(len(images))
        return photograph.score(images)

    metric(replace(photograph, score=count, batch=3), np.ones(photograph.size))
    assert 1 <= max(passes) <= 3


def test_sizes_and_tiles_may_be_chosen(photograph: Subject) -> None:
    saliency = np.random.default_rng(10).random(photograph.size)
    wishes = {"sizes": (2, 5), "subsets": 30, "tile": 4}
    chosen = sensitivity_metric(**wishes)(photograph, saliency)
    rng = np.random.default_rng((1711, 6104))
    assert chosen == sensitivity_n(photograph, saliency, rng, **wishes).mean
    for wish, value in wishes.items():
        alone = sensitivity_metric(**{wish: value})(photograph, saliency)
        assert alone != SENSITIVITY_N(photograph, saliency)
    assert degradation_metric(tile=4)(photograph, saliency) != DEGRADATION(photograph, saliency)
    assert degradation_metric(steps=4)(photograph, saliency) != DEGRADATION(photograph, saliency)
    few = difference_metric(Protocol(steps=3))
    assert few(photograph, saliency) != INSERTION_MINUS_DELETION(photograph, saliency)

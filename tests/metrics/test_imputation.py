"""What stands where pixels are hidden: by hand, and the linear system against a dense solver."""

from __future__ import annotations

import numpy as np
import pytest

from ibisa_onnx.errors import IbisaError, OptionError
from ibisa_onnx.metrics import (
    BORDER,
    DEGRADATION,
    IMPUTATIONS,
    IMPUTED,
    LERF_MORF,
    MEAN,
    NOISE,
    NOISY_LINEAR,
    ZEROS,
    Imputation,
    Subject,
    blurred,
    degradation,
    deletion,
    deletion_metric,
    imputation_named,
    insertion,
    insertion_metric,
    metric_named,
)

RNG = np.random.default_rng(0)
IMAGE = (5 + 2 * RNG.standard_normal((3, 13, 18))).astype(np.float32)
HIDDEN = RNG.random((13, 18)) < 0.6

each_imputation = pytest.mark.parametrize("imputation", IMPUTATIONS, ids=lambda each: each.name)


def filled(imputation: Imputation, hidden: np.ndarray = HIDDEN) -> np.ndarray:
    return imputation.of(IMAGE)(hidden)


@each_imputation
def test_pixels_that_are_not_hidden_stay_to_the_bit(imputation: Imputation) -> None:
    found = filled(imputation)
    assert (found.dtype, found.shape) == (np.float32, IMAGE.shape)
    np.testing.assert_array_equal(found[:, ~HIDDEN], IMAGE[:, ~HIDDEN])
    assert not np.isclose(found[:, HIDDEN], IMAGE[:, HIDDEN]).all()
    np.testing.assert_array_equal(filled(imputation, np.zeros_like(HIDDEN)), IMAGE)


@each_imputation
def test_the_same_call_gives_the_same_picture(imputation: Imputation) -> None:
    np.testing.assert_array_equal(filled(imputation), filled(imputation))
    assert np.isfinite(filled(imputation, np.ones_like(HIDDEN))).all()


def test_constant_colours_by_hand() -> None:
    everything = np.ones_like(HIDDEN)
    border = [
        np.mean([p[r, c] for r in range(13) for c in range(18) if r in (0, 12) or c in (0, 17)])
        for p in IMAGE
    ]
    for imputation, colour in ((MEAN, IMAGE.mean((1, 2))), (BORDER, border), (ZEROS, [0, 0, 0])):
        expected = np.broadcast_to(np.reshape(colour, (3, 1, 1)), IMAGE.shape)
        np.testing.assert_allclose(filled(imputation, everything), expected, rtol=1e-5)


def test_noise_varies_as_the_picture_does() -> None:
    image = np.repeat(IMAGE, 30, axis=2) * np.array([1, 2, 3], np.float32).reshape(3, 1, 1)
    found = NOISE.of(image)(np.ones(image.shape[1:], bool))
    np.testing.assert_allclose(found.std((1, 2)), image.std((1, 2)), rtol=0.05)
    np.testing.assert_allclose(found.mean((1, 2)), image.mean((1, 2)), rtol=0.1)
    assert abs(np.corrcoef(found[0].ravel(), image[0].ravel())[0, 1]) < 0.05


def solved(image: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """Each hidden pixel is the weighted mean of its neighbours, by a dense linear system."""
    places = [tuple(place) for place in np.argwhere(hidden)]
    number = {place: count for count, place in enumerate(places)}
    matrix, known = np.zeros((len(places), len(places))), np.zeros((len(places), len(image)))
    for (row, column), count in number.items():
        for down in (-1, 0, 1):
            for right in (-1, 0, 1):
                place = (row + down, column + right)
                inside = 0 <= place[0] < hidden.shape[0] and 0 <= place[1] < hidden.shape[1]
                if not inside or (down, right) == (0, 0):
                    continue
                weight = 1 / 12 if down and right else 1 / 6
                matrix[count, count] += weight
                if place in number:
                    matrix[count, number[place]] -= weight
                else:
                    known[count] += weight * image[:, place[0], place[1]]
    result = image.astype(np.float64).copy()
    result[:, hidden] = np.linalg.solve(matrix, known).T
    return result


@pytest.mark.parametrize("share", [0.02, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("smooth", [False, True])
def test_noisy_linear_solves_the_system_but_for_its_noise(share: float, smooth: bool) -> None:
    import cv2

    field = np.random.default_rng(1).standard_normal(HIDDEN.shape)
    field = cv2.GaussianBlur(field, (0, 0), 3) if smooth else field
    hidden = field <= np.quantile(field, share)
    hidden[0, 0] = False
    away = filled(NOISY_LINEAR, hidden) - solved(IMAGE, hidden)
    assert 0 < np.abs(away[:, hidden]).mean() < 0.02 * IMAGE.std()
    assert np.abs(away).max() < 0.06 * IMAGE.std()


def test_noisy_linear_of_a_ramp_is_the_ramp() -> None:
    ramp = np.broadcast_to(np.arange(18, dtype=np.float32), (1, 13, 18))
    hidden = np.zeros((13, 18), bool)
    hidden[3:10, 4:14] = True
    found = NOISY_LINEAR.of(ramp)(hidden)
    np.testing.assert_allclose(found, ramp, atol=0.06 * ramp.std())


def test_noisy_linear_of_nothing_is_the_mean_colour() -> None:
    found = filled(NOISY_LINEAR, np.ones_like(HIDDEN))
    np.testing.assert_allclose(found.mean((1, 2)), IMAGE.mean((1, 2)), rtol=1e-2)
    assert found.std((1, 2)).max() < IMAGE.std() / 50


@pytest.fixture
def subject() -> Subject:
    weights = np.random.default_rng(2).normal(size=IMAGE.shape)
    return Subject(lambda images: np.tanh((images * weights).sum((1, 2, 3)) / 30), IMAGE, batch=16)


SALIENCY = np.random.default_rng(3).random((13, 18))


def test_the_default_is_rises_protocol(subject: Subject) -> None:
    whole = np.ones_like(HIDDEN)
    blur = Imputation(
        "blur", "", lambda image: lambda hidden: np.where(hidden, blurred(image), image)
    )
    plain = insertion(subject.score, IMAGE, SALIENCY).scores
    np.testing.assert_array_equal(
        plain, insertion(subject.score, IMAGE, SALIENCY, imputation=blur).scores
    )
    np.testing.assert_array_equal(
        deletion(subject.score, IMAGE, SALIENCY).scores,
        deletion(subject.score, IMAGE, SALIENCY, imputation=ZEROS).scores,
    )
    np.testing.assert_array_equal(filled(blur, whole), blurred(IMAGE))


@each_imputation
def test_insertion_deletion_and_degradation_are_points_of_the_same_pictures(
    subject: Subject, imputation: Imputation
) -> None:
    impute, order = imputation.of(IMAGE), np.argsort(-SALIENCY.ravel())
    hidden = np.zeros(SALIENCY.size, bool)
    hidden[order[:117]] = True  # half of the pixels, the most salient ones
    without, only = subject.scores(impute(each.reshape(13, 18)) for each in (hidden, ~hidden))
    words = {"imputation": imputation, "step": 117}
    assert deletion(subject.score, IMAGE, SALIENCY, **words).scores[1] == pytest.approx(without)
    assert insertion(subject.score, IMAGE, SALIENCY, **words).scores[1] == pytest.approx(only)
    curves = degradation(subject, SALIENCY, tile=1, steps=2, imputation=imputation)
    assert (curves.morf[1], curves.lerf[1]) == pytest.approx((without, only))


def test_shares_are_points_of_the_same_curves(subject: Subject) -> None:
    every = degradation(subject, SALIENCY, tile=1, steps=234, imputation=MEAN)
    some = degradation(subject, SALIENCY, tile=1, shares=(0, 0.1, 0.5, 1), imputation=MEAN)
    np.testing.assert_allclose(some.lerf, every.lerf[[0, 23, 117, 234]])
    for wrong in ((0, 0.5), (0.1, 1), (0, 0.5, 0.5, 1)):
        with pytest.raises(IbisaError, match="strictly increase from 0 to 1"):
            degradation(subject, SALIENCY, shares=wrong)


def test_each_metric_that_hides_has_one_of_each_imputation(subject: Subject) -> None:
    assert len({each.name for each in IMPUTED}) == 5 * len(IMPUTATIONS)
    assert list(LERF_MORF) == [each.name for each in IMPUTATIONS]
    for name in ("lerf-morf-noisy-linear", "Insertion (mean)", "degradation zeros"):
        found = metric_named(name)
        assert np.isfinite(found(subject, SALIENCY))
    assert metric_named("degradation zeros")(subject, SALIENCY) == DEGRADATION(subject, SALIENCY)
    assert insertion_metric(imputation=MEAN).name == "insertion (mean)"
    assert deletion_metric(imputation=MEAN)(subject, SALIENCY) == pytest.approx(
        metric_named("deletion (mean)")(subject, SALIENCY)
    )


def test_names_that_are_not_are_refused_in_one_line() -> None:
    with pytest.raises(
        OptionError, match="unknown imputation 'black'; choose one of: 'blur', 'mean'"
    ):
        imputation_named("black")
    with pytest.raises(OptionError, match=r"'insertion', .*'LeRF - MoRF \(blur, mean, noise"):
        metric_named("insertion (black)")
    with pytest.raises(OptionError, match="both given; pass one"):
        insertion(np.sum, IMAGE, SALIENCY, start=IMAGE, imputation=MEAN)

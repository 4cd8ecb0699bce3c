"""The region test on a model that looks at a square."""

from __future__ import annotations

import numpy as np
import pytest

from ibisa_onnx.errors import MetricError
from ibisa_onnx.metrics import MEAN, ZEROS, Subject, region_test


def test_the_square_is_all_and_the_rest_is_nothing(subject: Subject, square: np.ndarray) -> None:
    found = region_test(subject, square, [ZEROS])
    assert (found.whole, found.without["zeros"], found.only["zeros"]) == (1, 0, 1)
    rest = region_test(subject, ~square, [ZEROS])
    assert (rest.without["zeros"], rest.only["zeros"]) == (1, 0)


def test_half_of_the_square_is_half_of_the_score(subject: Subject, square: np.ndarray) -> None:
    half = square.copy()
    half[5:] = False
    found = region_test(subject, half, [ZEROS])
    assert found.without["zeros"] == found.only["zeros"] == pytest.approx(0.5)


def test_the_median_is_no_single_imputation_s(square: np.ndarray) -> None:
    image = np.random.default_rng(0).random((3, 12, 12), np.float32)
    image[:, square] += 2
    subject = Subject(lambda images: images[:, 0, square].mean(1) / 2.5, image)
    found = region_test(subject, square)
    values = sorted(found.without.values())
    assert len(values) == 5
    assert found.median("without") == values[2]
    assert max(values) < found.whole
    assert found.without["mean"] == pytest.approx(image[0].mean() / 2.5, rel=1e-5)
    assert set(region_test(subject, square, [MEAN]).only) == {"mean"}


@pytest.mark.parametrize("region", [np.zeros((12, 12)), np.ones((12, 12)), np.ones((3, 3))])
def test_what_is_no_region_is_refused(subject: Subject, region: np.ndarray) -> None:
    with pytest.raises(MetricError, match="region"):
        region_test(subject, region.astype(bool))

"""Stability of methods whose maps are known: that follow the picture, and that do not."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from ibisa_onnx.metrics import STABILITIES, STABILITY, stability
from ibisa_onnx.metrics.stability import VARIANTS
from ibisa_onnx.preprocessing.spec import PRESETS, Preprocessing, prepare, unprepare

NOISE = np.random.default_rng(0).random((40, 50, 3))
SMOOTH = cv2.GaussianBlur(NOISE, (0, 0), 3)
PICTURE = (20 + 200 * (SMOOTH - SMOOTH.min()) / np.ptp(SMOOTH)).astype(np.uint8)


def spec_of(preset: str) -> Preprocessing:
    given = PRESETS[preset]
    return Preprocessing(
        (40, 50),
        "none",
        channel_order=given.channel_order,
        scale=given.scale,
        mean=given.mean,
        std=given.std,
    )


every_preset = pytest.mark.parametrize("preset", PRESETS)


@every_preset
def test_variants_look_the_same(preset: str) -> None:
    spec = spec_of(preset)
    image = prepare(PICTURE, spec).tensor[0]
    noisy, shifted, jpeg = (
        unprepare(each.change(image, spec), spec).astype(int) for each in VARIANTS
    )
    assert (noisy - PICTURE).std() == pytest.approx(2, abs=0.1)  # of 255
    np.testing.assert_array_equal(shifted[:, 1:], PICTURE[:, :-1])
    assert 0 < np.abs(jpeg - PICTURE).mean() < 4


def test_what_follows_the_picture_is_stable_under_a_shift() -> None:
    spec = spec_of("tf")
    image = prepare(PICTURE, spec).tensor[0]
    found = stability(lambda image: image[0], image, spec)
    assert found["stability (shift)"] == pytest.approx(1)
    assert 0.9 < found["stability (noise)"] < 1
    assert found["stability"] == pytest.approx(np.mean(list(found.values())[1:]))


def test_what_is_another_map_each_time_is_not_stable() -> None:
    rng, spec = np.random.default_rng(1), spec_of("unit")
    image = prepare(PICTURE, spec).tensor[0]
    found = stability(lambda image: rng.random(image.shape[1:]), image, spec)
    assert max(map(abs, found.values())) < 0.1


def test_each_variant_that_is_wanted_is_explained_once() -> None:
    asked: list[np.ndarray] = []
    spec = spec_of("unit")
    image = prepare(PICTURE, spec).tensor[0]

    def explain(image: np.ndarray) -> np.ndarray:
        asked.append(image)
        return image[0]

    stability(explain, image, spec)
    assert len(asked) == 1 + len(VARIANTS)
    found = stability(explain, image, spec, [STABILITIES[3]])
    assert (len(asked), list(found)) == (6, ["stability (JPEG)"])
    assert stability(explain, image, spec, [STABILITY]) == pytest.approx(
        {"stability": stability(explain, image, spec)["stability"]}
    )

"""Maps of a picture brought to the model's input, and the colour that stands for nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ibisa_onnx.errors import PreprocessingError
from ibisa_onnx.preprocessing.geometry import Geometry
from ibisa_onnx.preprocessing.spec import CROPPING, PRESETS, Preprocessing, mean_colour, prepare


def geometry(picture: tuple[int, int], size: tuple[int, int], resize: str) -> Geometry:
    side = 40 if resize in CROPPING else None
    pixels = np.zeros((*picture, 3), np.uint8)
    return prepare(pixels, Preprocessing(size, resize, side)).geometry


def ramp(shape: tuple[int, int]) -> np.ndarray:
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    return 1 + (rows + 0.5) / shape[0] + 2 * (columns + 0.5) / shape[1]


@pytest.mark.parametrize("picture", [(64, 64), (30, 50), (90, 45)])
def test_stretched_maps_are_resampled(picture: tuple[int, int]) -> None:
    found = geometry(picture, (32, 24), "stretch").project(ramp(picture))
    assert found.dtype == np.float32
    inner = (slice(2, -2), slice(2, -2))  # a linear map stays linear, borders apart
    np.testing.assert_allclose(found[inner], ramp((32, 24))[inner], atol=0.02)


@pytest.mark.parametrize("resize", ["stretch", "stretch-crop", "shortest", "letterbox"])
@pytest.mark.parametrize("picture", [(64, 64), (48, 80), (100, 50)])
def test_what_was_restored_comes_back(picture: tuple[int, int], resize: str) -> None:
    place = geometry(picture, (32, 32), resize)
    restored = place.restore(ramp((32, 32)).astype(np.float32))
    found, again = place.project(restored), ramp((32, 32))
    shown = found > restored.min() + 1e-3
    assert shown.mean() > 0.4
    inner = shown & np.roll(shown, 3, 0) & np.roll(shown, -3, 0)
    inner &= np.roll(shown, 3, 1) & np.roll(shown, -3, 1)
    inner[:3] = inner[-3:] = inner[:, :3] = inner[:, -3:] = False
    np.testing.assert_allclose(found[inner], again[inner], atol=0.05)


def test_margins_have_the_least_value() -> None:
    place = geometry((20, 40), (32, 32), "letterbox")  # 8 rows above and below show nothing
    found = place.project(5 + np.random.default_rng(0).random((20, 40)))
    assert found.min() >= 5
    np.testing.assert_array_equal(found[:8], found[0, 0])
    np.testing.assert_array_equal(found[-8:], found[0, 0])
    assert (found[8:-8] > found[0, 0]).all()


def test_what_was_cropped_away_does_not_shine_in() -> None:
    place = geometry((80, 160), (40, 40), "shortest")  # the middle 80 columns, at half the size
    values = np.ones((80, 160))
    values[:, :40] = values[:, 120:] = 100
    np.testing.assert_allclose(place.project(values), 1, atol=1e-5)


def test_a_map_of_another_size_is_refused() -> None:
    with pytest.raises(PreprocessingError, match=r"map is \[3, 4\], expected \[20, 40\]"):
        geometry((20, 40), (32, 32), "letterbox").project(np.ones((3, 4)))


def spec(preset: str, **changes: Any) -> Preprocessing:
    values = {
        name: getattr(PRESETS[preset], name) for name in ("channel_order", "scale", "mean", "std")
    }
    return Preprocessing((8, 8), **{**values, **changes})


@pytest.mark.parametrize("preset", ["imagenet", "caffe", "tf"])
def test_where_a_mean_is_subtracted_nothing_is_zero(preset: str) -> None:
    np.testing.assert_array_equal(mean_colour(spec(preset)), np.zeros((3, 1, 1), np.float32))


def test_elsewhere_it_is_the_mean_of_imagenet() -> None:
    usual = np.array([124, 116, 104])
    np.testing.assert_allclose(mean_colour(spec("raw"))[:, 0, 0], usual)
    np.testing.assert_allclose(mean_colour(spec("unit"))[:, 0, 0], usual / 255, rtol=1e-6)
    turned = mean_colour(spec("unit", channel_order="BGR"))
    np.testing.assert_allclose(turned[:, 0, 0], usual[::-1] / 255, rtol=1e-6)

"""A very large picture is read no larger than its model needs, and all places stay where they are.

The threshold is lowered, so that a picture of some 50,000 pixels is very large.
"""

from __future__ import annotations

import io
from dataclasses import replace

import cv2
import numpy as np
import pytest

from ibisa_onnx import Explainer
from ibisa_onnx.errors import ImageError
from ibisa_onnx.explanation import Explanation
from ibisa_onnx.io.images import read_picture
from ibisa_onnx.io.reduction import area_means
from ibisa_onnx.preprocessing import reading
from ibisa_onnx.preprocessing.reading import read_for, reduction_for
from ibisa_onnx.preprocessing.resolve import Overrides
from ibisa_onnx.preprocessing.spec import Preprocessing, prepare
from ibisa_onnx.targets.regions import region_mask

SIDE = 8
SPEC = Preprocessing((SIDE, SIDE), "stretch", scale=1 / 255)


@pytest.fixture(autouse=True)
def low(monkeypatch):
    monkeypatch.setattr(reading, "REDUCED_ABOVE", 40_000)


@pytest.fixture
def smooth(rng) -> np.ndarray:
    """A picture of 300x260 without edges, uint8."""
    coarse = rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return cv2.resize(coarse, (260, 300), interpolation=cv2.INTER_CUBIC)


def _encoded(suffix: str, rgb: np.ndarray) -> bytes:
    if suffix == ".npy":
        buffer = io.BytesIO()
        np.save(buffer, rgb)
        return buffer.getvalue()
    order = {3: [2, 1, 0], 4: [2, 1, 0, 3]}
    stored = rgb if rgb.ndim == 2 else np.ascontiguousarray(rgb[..., order[rgb.shape[2]]])
    lossless = [cv2.IMWRITE_WEBP_QUALITY, 101] if suffix == ".webp" else []
    return cv2.imencode(suffix, stored, lossless)[1].tobytes()


class TestFactor:
    def test_ordinary_pictures_are_read_whole(self, monkeypatch):
        monkeypatch.setattr(reading, "REDUCED_ABOVE", 1 << 25)
        spec = Preprocessing((224, 224))
        assert reduction_for((4000, 6000), spec) == 1
        assert reduction_for((8700, 11600), spec) == 8
        assert reduction_for((8700, 11600), Preprocessing((640, 640), "letterbox")) == 4
        assert reduction_for((8700, 11600), Preprocessing((1024, 1024), "letterbox")) == 2
        assert reduction_for((8700, 11600), Preprocessing((2048, 2048), "letterbox")) == 1

    @pytest.mark.parametrize(
        ("size", "factor"), [((300, 260), 8), ((300, 255), 4), ((1300, 31), 1)]
    )
    def test_four_pixels_are_left_for_each_of_the_inputs(self, size, factor):
        assert reduction_for(size, SPEC) == factor

    def test_picked_pixels_stay_those(self):
        nearest = Preprocessing((SIDE, SIDE), "stretch", interpolation="nearest")
        assert reduction_for((300, 260), nearest) == 1

    def test_what_does_not_fit_is_told_before_it_is_decoded(self, smooth):
        data = _encoded(".png", smooth)
        with pytest.raises(ImageError, match="300x260"):
            read_for(data, Preprocessing((SIDE, SIDE), "none"))


TURNED = [(suffix, turn) for suffix in (".jpg", ".png", "16") for turn in range(1, 9)]
OTHERS = [(suffix, 1) for suffix in (".webp", ".bmp", ".tiff", ".npy", "grey")]


@pytest.mark.parametrize(("suffix", "orientation"), TURNED + OTHERS)
def test_the_model_sees_what_it_saw(smooth, suffix, orientation):
    """Turned pictures have sides of a multiple of eight, as those of cameras."""
    from tests.io.test_images import UPRIGHT, _jpeg_with, _png_with

    turns = {".jpg": _jpeg_with, ".png": _png_with, "16": _png_with}
    smooth = smooth if orientation == 1 else smooth[:296, :256]
    values = smooth.astype(np.uint16) * 257 if suffix == "16" else smooth
    data = _encoded(".png" if suffix in ("16", "grey") else suffix, values)
    if suffix == "grey":
        data = _encoded(".png", smooth[..., 0])
    if suffix in turns:
        data = turns[suffix](data, orientation)
    whole, reduced = read_picture(data), read_for(data, SPEC)
    assert (reduced.reduction, reduced.size) == (8, whole.pixels.shape[:2])
    assert reduced.size == UPRIGHT[orientation](smooth).shape[:2]
    assert max(reduced.pixels.shape[:2]) == (38 if orientation == 1 else 37)
    assert "read at 1/8" in reduced.notes[0]
    assert whole.sha256 == reduced.sha256
    expected, found = prepare(whole, SPEC), prepare(reduced, SPEC)
    assert np.abs(found.tensor - expected.tensor).max() < 0.02
    for name in ("picture", "model", "scale", "offset", "whole"):
        assert getattr(found.geometry, name) == getattr(expected.geometry, name)


def test_transparent_pixels_lend_no_colour():
    rgba = np.zeros((4, 4, 4), np.uint8)
    rgba[:2] = (200, 100, 50, 255)
    rgba[2:] = (0, 0, 0, 0)
    np.testing.assert_array_equal(area_means(rgba, 4), [[[200, 100, 50, 128]]])


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "int64", "float16", "float64"])
@pytest.mark.parametrize("channels", [0, 1, 3, 6])
def test_means_of_every_kind(rng, dtype, channels):
    values = rng.integers(0, 200, (37, 23, channels)[: 2 + (channels > 0)]).astype(dtype)
    means = area_means(values, 4)
    assert (means.dtype, means.shape[:2]) == (values.dtype, (10, 6))
    expected = values[4:8, 8:12].mean((0, 1), dtype=np.float64)
    np.testing.assert_allclose(
        means[1, 2], expected, atol=0.51 if values.dtype.kind in "iu" else 0.1
    )
    np.testing.assert_allclose(
        means[-1, -1], values[36, 20:].astype(float)[[0, 1, 2, 2]].mean(0), atol=0.6
    )


class TestExplanations:
    def _explain(self, model, data) -> Explanation:
        explainer = Explainer(
            model.SerializeToString(),
            providers=["cpu"],
            preprocessing="unit",
            overrides=Overrides(resize="stretch"),
        )
        return explainer.explain(data, method="occlusion")

    def test_the_map_is_that_of_the_whole_picture(self, mean_model, smooth, monkeypatch, tmp_path):
        model, data = mean_model(("n", 3, SIDE, SIDE)), _encoded(".png", smooth)
        found = self._explain(model, data)
        monkeypatch.setattr(reading, "REDUCED_ABOVE", 1 << 25)
        whole = self._explain(model, data)
        assert (found.map.shape, found.image.shape[:2]) == ((38, 33), (38, 33))
        assert whole.map.shape == (300, 260)
        shrunk = area_means(whole.map, 8)
        assert np.abs(shrunk - found.map)[:-1, :-1].max() < 0.05
        assert (found.provenance.reduction, whole.provenance.reduction) == (8, 1)
        assert found.record()["provenance"]["reduction"] == 8
        assert any("260 x 300 and was read at 1/8" in each for each in found.warnings)
        found.save(tmp_path / "saved")
        assert Explanation.load(tmp_path / "saved").provenance.reduction == 8

    def test_boxes_are_drawn_where_they_are(self, mean_model, smooth):
        found = self._explain(mean_model(("n", 3, SIDE, SIDE)), _encoded(".png", smooth))
        target = replace(found.target, details={"box": [80, 160, 160, 240]})
        drawn = replace(found, target=target).overlay()
        plain = found.overlay()
        rows, columns = np.nonzero((drawn != plain).any(2))
        scale = 256 / 38 / 8  # the longer side is drawn with 256 pixels
        left = columns[columns < plain.shape[1] // 2]
        found = (left.min(), rows.min(), left.max(), rows.max())
        np.testing.assert_allclose(found, np.multiply(scale, (80, 160, 160, 240)), atol=4)

    def test_regions_are_of_the_file_s_size(self, smooth):
        geometry = prepare(read_for(_encoded(".png", smooth), SPEC), SPEC).geometry
        mask = region_mask((0, 0, 130, 300), geometry.picture)
        np.testing.assert_allclose(geometry.project(mask)[:, :3], 1, atol=0.01)
        np.testing.assert_allclose(geometry.project(mask)[:, 5:], 0, atol=0.01)
        left = geometry.restore(np.eye(SIDE, dtype=np.float32))
        assert left.shape == (38, 33)
        assert geometry.whole.restore(np.eye(SIDE, dtype=np.float32)).shape == (300, 260)
        assert np.prod(geometry.cell) * 300 / 8 * 260 / 8 == pytest.approx(SIDE * SIDE)

"""Deep pictures: their own values reach a model that takes them, and nothing is cut in silence."""

from __future__ import annotations

import dataclasses
import io

import cv2
import numpy as np
import pytest

from ibisa_onnx import Explainer
from ibisa_onnx.errors import ImageError, MissingDependencyError, PreprocessingError
from ibisa_onnx.io.images import read_image, read_picture
from ibisa_onnx.preprocessing.resolve import Overrides
from ibisa_onnx.preprocessing.spec import PRESETS, Preprocessing, mean_colour, prepare, unprepare

SIDE = 6


def _spec(preset: str = "raw", order: str = "GRAY", **fields) -> Preprocessing:
    values = PRESETS[preset]
    mean, std = values.mean, values.std
    if order == "GRAY":
        mean, std = (float(np.mean(mean)),), (float(np.mean(std)),)
    settings = {"channel_order": order, "scale": values.scale, "mean": mean, "std": std}
    return Preprocessing((SIDE, SIDE), **(settings | {"resize": "none"} | fields))


def _npy(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


def _file(values: np.ndarray, suffix: str) -> bytes:
    if suffix == ".npy":
        return _npy(values)
    stored = values if values.ndim == 2 else np.ascontiguousarray(values[..., ::-1])
    done, data = cv2.imencode(suffix, stored)
    assert done
    return data.tobytes()


@pytest.fixture
def scan(rng) -> np.ndarray:
    """Grey of 12 bits, as of a scanner."""
    return rng.integers(900, 4000, (SIDE, SIDE), dtype=np.uint16)


class TestSixteenBits:
    @pytest.mark.parametrize("suffix", [".png", ".tiff", ".npy"])
    @pytest.mark.parametrize("dtype", ["float32", "uint16"])
    def test_go_in_as_they_are_where_the_model_takes_them_raw(self, scan, suffix, dtype):
        prepared = prepare(read_picture(_file(scan, suffix)), _spec(dtype=dtype))
        np.testing.assert_array_equal(prepared.tensor[0, 0], scan)
        (warning,) = prepared.warnings
        assert f"has 16 bits, {scan.min()} to {scan.max()}: its own values are used" in warning

    def test_an_array_is_a_picture_too(self, scan):
        np.testing.assert_array_equal(prepare(read_picture(scan), _spec()).tensor[0, 0], scan)

    @pytest.mark.parametrize("preset", ["unit", "tf", "imagenet", "caffe"])
    def test_are_scaled_where_the_model_takes_0_to_255(self, rng, preset):
        eight = rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        deep = read_picture(_file(eight.astype(np.uint16) * 257, ".png"))
        prepared = prepare(deep, _spec(preset, "RGB"))
        np.testing.assert_allclose(
            prepared.tensor, prepare(eight, _spec(preset, "RGB")).tensor, rtol=1e-6, atol=1e-4
        )
        assert "0..65535 is scaled to 0..255" in prepared.warnings[0]

    def test_keep_their_steps_between_those_of_bytes(self):
        ramp = np.arange(SIDE * SIDE, dtype=np.uint16).reshape(SIDE, SIDE) + 1000
        prepared = prepare(read_picture(ramp), _spec("unit"))
        np.testing.assert_allclose(prepared.tensor[0, 0], ramp / 65535, rtol=1e-6)
        assert "it uses little; pass overrides={'depth': 'full'}" in prepared.warnings[0]

    def test_depth_decides_where_it_is_said(self, scan):
        eight = prepare(read_picture(scan), _spec(depth="8-bit")).tensor[0, 0]
        np.testing.assert_allclose(eight, scan / 257, rtol=1e-6)
        full = prepare(read_picture(scan), _spec("unit", depth="full")).tensor[0, 0]
        np.testing.assert_allclose(full, scan / 255, rtol=1e-6)

    def test_a_formula_for_more_than_bytes_is_of_their_own_values(self, scan):
        spec = _spec(scale=1 / 4095)
        np.testing.assert_allclose(
            prepare(read_picture(scan), spec).tensor[0, 0], scan / 4095, rtol=1e-6
        )

    def test_a_model_of_bytes_gets_bytes(self, scan):
        tensor = prepare(read_picture(scan), _spec(dtype="uint8")).tensor[0, 0]
        np.testing.assert_allclose(tensor, scan / 257, rtol=1e-6)

    @pytest.mark.parametrize("dtype", ["int16", "float16"])
    def test_what_the_input_cannot_hold_is_refused(self, dtype):
        bright = np.full((SIDE, SIDE), 65535, np.uint16)
        with pytest.raises(
            ImageError, match=f"becomes 65535 to 65535, but the model's input is {dtype}"
        ):
            prepare(read_picture(bright), _spec(dtype=dtype))

    def test_are_resized_without_rounding(self):
        two = np.array([[1000, 1001], [1000, 1001]], np.uint16)
        tensor = prepare(read_picture(two), _spec(resize="stretch")).tensor[0, 0]
        assert 1000 < tensor[0, 2] < tensor[0, 3] < 1001

    def test_transparent_parts_are_white(self):
        rgba = np.zeros((SIDE, SIDE, 4), np.uint16)
        rgba[0, 0, 3] = 65535
        tensor = prepare(read_picture(rgba), _spec("raw", "RGB")).tensor[0]
        assert tensor[:, 0, 0].max() == 0
        assert tensor[:, 1:].min() == 65535

    def test_are_drawn_stretched(self, scan):
        drawn = read_picture(scan).pixels
        assert (drawn.min(), drawn.max()) == (0, 255)
        assert len(np.unique(drawn)) > 16  # as many as a cut to 8 bits would leave
        assert len(np.unique(read_image(scan))) <= 16

    def test_margins_are_grey_in_their_own_range(self):
        white = np.full((SIDE, 2 * SIDE), 65535, np.uint16)
        tensor = prepare(read_picture(white), _spec(resize="letterbox")).tensor[0, 0]
        np.testing.assert_allclose(tensor[0], 114 / 255 * 65535, rtol=1e-6)


class TestFloats:
    @pytest.mark.parametrize("suffix", [".tiff", ".npy"])
    @pytest.mark.parametrize("shape", [(SIDE, SIDE), (SIDE, SIDE, 3)])
    def test_go_in_as_they_are_where_the_model_takes_them_raw(self, rng, suffix, shape, capfd):
        values = rng.normal(100, 30, shape).astype(np.float32)
        order = "GRAY" if len(shape) == 2 else "RGB"
        prepared = prepare(read_picture(_file(values, suffix)), _spec("raw", order))
        np.testing.assert_array_equal(prepared.tensor[0].transpose(1, 2, 0).squeeze(), values)
        assert "has float32 pixels" in prepared.warnings[0]
        assert capfd.readouterr().err == ""

    def test_in_0_to_1_are_what_bytes_over_255_are(self, rng):
        values = rng.random((SIDE, SIDE)).astype(np.float32)
        tensor = prepare(read_picture(_file(values, ".tiff")), _spec("unit")).tensor[0, 0]
        np.testing.assert_allclose(tensor, values, rtol=1e-6)

    def test_of_unknown_white_are_refused_in_a_line(self):
        values = np.full((SIDE, SIDE), 157, np.float32)
        picture = read_picture(_file(values, ".tiff"))
        with pytest.raises(
            ImageError, match=r"float32 pixels from 157 to 157.*overrides=.*full"
        ) as error:
            prepare(picture, _spec("unit"))
        assert "\n" not in str(error.value)
        full = prepare(picture, _spec("unit", depth="full")).tensor
        np.testing.assert_allclose(full, 157 / 255, rtol=1e-6)

    def test_arrays_are_0_to_1_and_keep_their_depth(self):
        values = np.linspace(0, 1, SIDE * SIDE).reshape(SIDE, SIDE)
        prepared = prepare(read_picture(values), _spec("raw"))
        np.testing.assert_allclose(prepared.tensor[0, 0], values * 255, rtol=1e-6)
        assert prepared.warnings == ()

    def test_arrays_of_bytes_over_255_are_those_bytes(self, rng):
        pixels = rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        for dtype in (np.float32, np.float64):
            assert read_picture((pixels / 255).astype(dtype)).deep is None

    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_what_is_no_number_is_refused(self, bad):
        with pytest.raises(ImageError, match="NaN or infinite"):
            read_picture(_npy(np.full((SIDE, SIDE), bad, np.float32)))


class TestChannels:
    SIX = Preprocessing((SIDE, SIDE), "none", channel_order="AS-IS", channels=6)

    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.int16])
    def test_up_to_16_go_in_as_they_are(self, rng, dtype):
        for channels in (2, 5, 6, 16):
            values = (rng.random((SIDE, SIDE, channels)) * 200).astype(dtype)
            spec = dataclasses.replace(self.SIX, channels=channels)
            picture = read_picture(_npy(values))
            tensor = prepare(picture, spec).tensor
            np.testing.assert_array_equal(tensor[0].transpose(1, 2, 0), values)
            assert picture.pixels.shape == (SIDE, SIDE, 3)
            assert unprepare(tensor, spec).shape == (SIDE, SIDE, 3)

    def test_each_has_its_mean_and_std(self, rng):
        values = rng.integers(0, 256, (SIDE, SIDE, 6), dtype=np.uint8)
        mean = tuple(np.arange(6.0))
        spec = dataclasses.replace(self.SIX, mean=mean, std=(1, 2, 3, 4, 5, 6), scale=0.5)
        tensor = prepare(read_picture(values), spec).tensor[0]
        expected = (values * 0.5 - np.arange(6)) / np.arange(1, 7)
        np.testing.assert_allclose(tensor, expected.transpose(2, 0, 1), rtol=1e-6, atol=1e-6)
        with pytest.raises(PreprocessingError, match="requires 1 or 6 numbers"):
            dataclasses.replace(self.SIX, mean=(1.0, 2.0, 3.0))

    def test_other_numbers_are_refused_on_both_sides(self, rng):
        six = read_picture(rng.integers(0, 256, (SIDE, SIDE, 6), dtype=np.uint8))
        with pytest.raises(ImageError, match=r"6 channel\(s\), but the model requires 3"):
            prepare(six, _spec("raw", "RGB"))
        rgb = read_picture(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))
        with pytest.raises(ImageError, match=r"3 channel\(s\), but the model requires 6"):
            prepare(rgb, self.SIX)
        with pytest.raises(ImageError, match="of up to 16 channels"):
            read_picture(np.zeros((SIDE, SIDE, 17), np.uint8))
        with pytest.raises(PreprocessingError, match="AS-IS requires 1 to 16"):
            dataclasses.replace(self.SIX, channels=17)

    def test_what_stands_for_nothing_is_the_pictures_own_mean(self):
        colours = np.arange(12, dtype=np.float32).reshape(2, 6)
        found = mean_colour(self.SIX, colours)
        np.testing.assert_allclose(found[:, 0, 0], colours.mean(0))

    @pytest.mark.parametrize("planar", [False, True])
    def test_of_tiff_files(self, rng, planar):
        tifffile = pytest.importorskip("tifffile")
        values = rng.integers(0, 65536, (SIDE, SIDE, 6), dtype=np.uint16)
        buffer = io.BytesIO()
        tifffile.imwrite(
            buffer,
            values.transpose(2, 0, 1) if planar else values,
            photometric="minisblack",
            planarconfig="separate" if planar else "contig",
        )
        tensor = prepare(read_picture(buffer.getvalue()), self.SIX).tensor[0]
        np.testing.assert_array_equal(tensor.transpose(1, 2, 0), values)

    @pytest.mark.parametrize("order", ["<", ">"])
    def test_tiff_files_of_many_channels_name_the_extra(self, order, monkeypatch, capfd):
        """Told by the file's tags, before OpenCV sees it: of some it would drop channels."""
        monkeypatch.setitem(__import__("sys").modules, "tifffile", None)
        tags = [(256, 8), (257, 8), (258, 8), (262, 1), (277, 6)]
        entries = b"".join(
            np.array([tag, 3], f"{order}u2").tobytes()
            + np.array([1], f"{order}u4").tobytes()
            + np.array([value, 0], f"{order}u2").tobytes()
            for tag, value in tags
        )
        head = (b"II" if order == "<" else b"MM") + np.array([42], f"{order}u2").tobytes()
        head += np.array([8], f"{order}u4").tobytes()
        head += np.array([len(tags)], f"{order}u2").tobytes()
        with pytest.raises(MissingDependencyError, match=r"ibisa-onnx\[tiff\]"):
            read_picture(head + entries + bytes(64))
        assert capfd.readouterr().err == ""


@pytest.mark.parametrize("name", ["a.tif", "a.png", "a.npy"])
def test_damaged_files_are_a_line_and_nothing_of_opencv(tmp_path, rng, name, capfd):
    values = rng.integers(0, 65536, (40, 40), dtype=np.uint16)
    path = tmp_path / name
    path.write_bytes(_file(values, "." + name.split(".")[1])[:300])
    with pytest.raises(ImageError, match=name) as error:
        read_picture(path)
    assert "\n" not in str(error.value)
    assert capfd.readouterr().err == ""


class TestExplanations:
    """What was done to a picture goes along with its map."""

    def _explain(self, model, picture: np.ndarray, **preprocessing):
        explainer = Explainer(model.SerializeToString(), providers=["cpu"], **preprocessing)
        return explainer.explain(picture, method="random")

    def test_a_deep_picture_is_drawn_and_its_depth_told(self, mean_model, rng):
        picture = rng.integers(900, 4000, (5, 6), dtype=np.uint16)
        model = mean_model(("n", 1, 5, 6))
        found = self._explain(model, picture, preprocessing="raw")
        assert any("has 16 bits" in each for each in found.warnings)
        assert (found.image.dtype, found.image.shape) == (np.uint8, (5, 6, 3))
        assert found.map.shape == (5, 6)
        assert not any("guessed" in each for each in found.warnings)  # it has the input's size

    def test_six_channels(self, mean_model, rng):
        picture = rng.integers(0, 65536, (30, 24, 6), dtype=np.uint16)
        found = self._explain(mean_model(("n", 6, 20, 20)), picture, preprocessing="raw")
        assert found.image.shape == (30, 24, 3)
        assert found.provenance.preprocessing["channel_order"] == "AS-IS"
        assert found.provenance.preprocessing["channels"] == 6

    def test_a_guessed_resize_is_in_warnings_and_record(self, linear_model, rng):
        picture = rng.integers(0, 256, (8, 4, 3), dtype=np.uint8)
        found = self._explain(linear_model(), picture, preprocessing="tf")
        said = (
            "the resize mode is assumed (stretch): its width is stretched 2.00x; "
            "pass overrides={'resize': ...} to change it"
        )
        assert said in found.warnings
        assert "resize" in found.provenance.preprocessing["guessed"]
        known = Overrides(resize="stretch")
        found = self._explain(linear_model(), picture, preprocessing="tf", overrides=known)
        assert said not in found.warnings

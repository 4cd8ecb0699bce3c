"""Pictures of every kind come out as a person sees them; what is no picture is refused."""

from __future__ import annotations

import hashlib
import os
import struct
import zlib

import cv2
import numpy as np
import pytest

from ibisa_onnx.errors import ImageError
from ibisa_onnx.io.images import image_sha256, read_image


def _encode(suffix: str, rgb: np.ndarray, *options: int) -> bytes:
    """Encode RGB, RGBA or grey with OpenCV, which wants BGR."""
    order = {3: [2, 1, 0], 4: [2, 1, 0, 3]}.get(rgb.shape[2] if rgb.ndim == 3 else 0)
    done, data = cv2.imencode(suffix, rgb if order is None else rgb[..., order], list(options))
    assert done
    return data.tobytes()


def _exif(orientation: int) -> bytes:
    """A TIFF header with a single entry: the orientation."""
    entry = struct.pack(">HHIHH", 0x0112, 3, 1, orientation, 0)
    return b"MM\x00*" + struct.pack(">I", 8) + struct.pack(">H", 1) + entry + bytes(4)


def _jpeg_with(data: bytes, orientation: int) -> bytes:
    body = b"Exif\x00\x00" + _exif(orientation)
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + data[2:]


def _png_with(data: bytes, orientation: int) -> bytes:
    body = b"eXIf" + _exif(orientation)
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    end_of_header = 8 + 25
    return data[:end_of_header] + chunk + data[end_of_header:]


# What a viewer does with stored rows and columns, for each EXIF orientation.
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a),
}


@pytest.fixture
def rgb(rng):
    return rng.integers(0, 256, (4, 7, 3), dtype=np.uint8)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tiff", ".webp"])
def test_lossless_formats_come_back_exactly(tmp_path, rgb, suffix):
    path = tmp_path / f"picture{suffix}"
    options = (cv2.IMWRITE_WEBP_QUALITY, 101) if suffix == ".webp" else ()
    path.write_bytes(_encode(suffix, rgb, *options))
    for source in (path, str(path), path.read_bytes()):
        image = read_image(source)
        assert image.dtype == np.uint8
        np.testing.assert_array_equal(image, rgb)


def test_jpeg_keeps_the_colours_in_rgb_order():
    red = np.full((16, 16, 3), (250, 10, 20), np.uint8)
    image = read_image(_encode(".jpg", red)).astype(int)
    assert np.abs(image - red).max() <= 6


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(rgb, orientation):
    expected = UPRIGHT[orientation](rgb)
    png = _png_with(_encode(".png", rgb), orientation)
    np.testing.assert_array_equal(read_image(png), expected)
    big = np.kron(rgb, np.ones((16, 16, 1), np.uint8))
    jpeg = read_image(_jpeg_with(_encode(".jpg", big, cv2.IMWRITE_JPEG_QUALITY, 100), orientation))
    assert np.abs(jpeg.astype(int) - UPRIGHT[orientation](big)).mean() < 10


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied_to_transparent_pictures(rng, orientation):
    rgba = rng.integers(0, 256, (4, 7, 4), dtype=np.uint8)
    upright = read_image(_encode(".png", np.ascontiguousarray(UPRIGHT[orientation](rgba))))
    turned = read_image(_png_with(_encode(".png", rgba), orientation))
    np.testing.assert_array_equal(turned, upright)


def test_grey_becomes_three_equal_channels(rgb):
    grey = rgb[..., 0]
    expected = np.repeat(grey[..., None], 3, axis=2)
    for source in (_encode(".png", grey), grey, grey[..., None]):
        np.testing.assert_array_equal(read_image(source), expected)


def test_transparency_shows_white():
    rgba = np.array([[[255, 0, 0, 255], [255, 0, 0, 0], [0, 0, 0, 128]]], np.uint8)
    expected = [[[255, 0, 0], [255, 255, 255], [127, 127, 127]]]
    np.testing.assert_array_equal(read_image(rgba), expected)
    np.testing.assert_array_equal(read_image(_encode(".png", rgba)), expected)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_16_bits_are_scaled_not_cut(rng, channels):
    eight = rng.integers(0, 256, (5, 6, channels), dtype=np.uint8)
    sixteen = eight.astype(np.uint16) * 257
    np.testing.assert_array_equal(read_image(sixteen), read_image(eight))
    np.testing.assert_array_equal(read_image(_encode(".png", sixteen)), read_image(eight))
    ends = np.array([[0, 128, 129, 65535 - 129, 65535 - 128, 65535]], np.uint16)
    np.testing.assert_array_equal(read_image(ends)[0, :, 0], [0, 0, 1, 254, 255, 255])


def test_one_pixel(rgb):
    np.testing.assert_array_equal(read_image(_encode(".png", rgb[:1, :1])), rgb[:1, :1])


def test_an_array_passes_through_unchanged(rgb):
    np.testing.assert_array_equal(read_image(rgb), rgb)
    np.testing.assert_array_equal(read_image(rgb[:, ::-1]), rgb[:, ::-1])


class TestRefused:
    def _refused(self, source, match):
        with pytest.raises(ImageError, match=match) as error:
            read_image(source)
        assert "\n" not in str(error.value)

    def test_missing_folder_and_empty(self, tmp_path):
        self._refused(tmp_path / "no.png", "image file .*no.png does not exist")
        self._refused(tmp_path, "is a folder")
        empty = tmp_path / "empty.png"
        empty.write_bytes(b"")
        self._refused(empty, "empty.png is empty")
        self._refused(b"", "is empty")

    def test_what_is_no_file_does_not_block(self, tmp_path):
        pipe, never = tmp_path / "pipe.png", tmp_path / "zero.png"
        os.mkfifo(pipe)
        never.symlink_to("/dev/zero")
        self._refused(pipe, "is a pipe, not a regular image file")
        self._refused(never, "is a device, not a regular image file")

    @pytest.mark.parametrize("content", [b"hello", b"\xff\xd8\xff\xe0\0\2 nothing", bytes(1000)])
    def test_not_a_picture(self, tmp_path, content):
        path = tmp_path / "text.png"
        path.write_bytes(content)
        self._refused(path, "text.png is damaged, or not a supported image")
        path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
        self._refused(path, "text.png is a Git LFS pointer, not an image; run git lfs pull")

    def test_truncated_png(self, rgb, capfd):
        self._refused(_encode(".png", rgb)[:60], "truncated PNG")
        assert capfd.readouterr().err == ""

    @pytest.mark.parametrize(
        "array",
        [
            np.full((4, 4, 3), 1.5, np.float32),
            np.full((4, 4, 3), np.nan),
            np.full((4, 4, 3), -1, np.int64),
            np.full((4, 4, 3), 256),
            np.zeros((4, 4, 3), np.complex64),
            np.zeros((4, 4, 2), np.uint8),
            np.zeros((1, 4, 4, 3), np.uint8),
            np.zeros((0, 4, 3), np.uint8),
        ],
    )
    def test_arrays_of_another_kind(self, array):
        self._refused(array, "the array has")


@pytest.mark.parametrize("dtype", [np.int16, np.int64, np.uint32, np.int8])
def test_integers_of_any_size_are_pixels(rgb, dtype):
    pixels = rgb // 2 if dtype == np.int8 else rgb
    np.testing.assert_array_equal(read_image(pixels.astype(dtype)), pixels)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_go_from_0_to_1(rgb, dtype):
    np.testing.assert_array_equal(read_image((rgb / 255).astype(dtype)), rgb)


def test_booleans_are_black_and_white(rgb):
    found = read_image(rgb[..., 0] > 127)
    np.testing.assert_array_equal(found[..., 1], np.where(rgb[..., 0] > 127, 255, 0))


def test_a_pil_image_is_read_as_its_file_would_be(rgb, tmp_path):
    image = pytest.importorskip("PIL.Image")
    np.testing.assert_array_equal(read_image(image.fromarray(rgb)), rgb)
    grey, alpha = rgb[..., 0], np.dstack([rgb, rgb[..., 0]])
    np.testing.assert_array_equal(read_image(image.fromarray(grey)), read_image(grey))
    np.testing.assert_array_equal(read_image(image.fromarray(alpha)), read_image(alpha))
    palette = image.fromarray(rgb).quantize(256)
    np.testing.assert_array_equal(read_image(palette), np.asarray(palette.convert("RGB")))
    deep = grey.astype(np.uint16) * 257
    np.testing.assert_array_equal(read_image(image.fromarray(deep)), read_image(deep))
    two = image.fromarray(grey > 127)
    np.testing.assert_array_equal(read_image(two)[..., 0], np.where(grey > 127, 255, 0))


def test_hash_is_of_the_file_or_of_all_there_is_in_an_array(tmp_path, rgb):
    path = tmp_path / "picture.png"
    path.write_bytes(_encode(".png", rgb))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert image_sha256(path) == image_sha256(path.read_bytes()) == digest
    assert image_sha256(rgb) == image_sha256(rgb[:, ::-1][:, ::-1])
    assert len({image_sha256(a) for a in (rgb, rgb.reshape(7, 4, 3), rgb.astype(np.int16))}) == 3

"""Sizes are read from headers and held against the limits before anything is decoded."""

from __future__ import annotations

import struct
import tracemalloc
import warnings
import zlib

import cv2
import numpy as np
import pytest

from ibisa_onnx.errors import ImageError
from ibisa_onnx.io.decoding import decode
from ibisa_onnx.io.headers import read_header
from ibisa_onnx.io.images import read_image, read_picture
from ibisa_onnx.limits import Limits
from tests.io.odd_pictures import (
    SUFFIXES,
    chunk,
    encoded,
    headers_of,
    jpeg_of_size,
    npy,
    pixels_chunk,
    png,
    tiff,
)


@pytest.fixture
def rgb(rng) -> np.ndarray:
    return rng.integers(0, 256, (24, 16, 3), dtype=np.uint8)


KINDS = sorted(headers_of(9, 9, np.zeros((8, 8, 3), np.uint8)))


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_says_it_is_huge_is_refused_before_it_is_decoded(rgb, kind, capfd):
    data = headers_of(16000, 16000, rgb)[kind]
    tracemalloc.start()
    with pytest.raises(ImageError) as error:
        read_picture(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10 << 20
    assert capfd.readouterr().err == ""
    if kind not in ("npy", "bmp"):  # those have too few bytes for what they say
        assert "256,000,000 pixels" in str(error.value)
        assert "IBISA_ONNX_MAX_PIXELS" in str(error.value)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_limit_counts_pixels(rgb, suffix):
    data = encoded(suffix, rgb)
    assert read_image(data, Limits(pixels=100_000)).shape == rgb.shape
    with pytest.raises(ImageError, match="16 x 24, 384 pixels"):
        read_image(data, Limits(pixels=300))


def test_what_takes_more_bytes_may_have_fewer_pixels(rgb):
    sixteen = cv2.imencode(".png", rgb.astype(np.uint16))[1].tobytes()
    read_image(encoded(".png", rgb), Limits(pixels=400))
    with pytest.raises(ImageError, match="more than the limit of 166 for its kind"):
        read_image(sixteen, Limits(pixels=400))


def test_the_limit_is_that_of_the_environment(rgb, monkeypatch):
    monkeypatch.setenv("IBISA_ONNX_MAX_PIXELS", "100")
    with pytest.raises(ImageError, match="set IBISA_ONNX_MAX_PIXELS above 100"):
        read_image(encoded(".png", rgb))


def test_bytes_are_limited_as_files_are(rgb):
    with pytest.raises(ImageError, match="IBISA_ONNX_MAX_FILE_BYTES"):
        read_image(encoded(".png", rgb), Limits(file_bytes=100))


@pytest.mark.parametrize(
    "start",
    [
        b"\x00\x00\x00\x0cjP  \r\n\x87\n",  # JPEG 2000
        b"\xff\x4f\xff\x51",
        b"\x76\x2f\x31\x01",  # OpenEXR
        b"#?RADIANCE\n",
        b"\x00\x00\x00\x20ftypavif",
        b"P6\n4 4\n255\n",
        b"Pf\n4 4\n1\n",
        b"\x59\xa6\x6a\x95",  # Sun
        b"%PDF-1.7\n",
        b"\x80\x04\x95",  # a pickle
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"RIFF\x10\0\0\0AVI ",
        b"BM",
        b"II*\0",
        b"MM\0*\xff\xff\xff\xff",
        b"II+\0\x08\0\0\0" + b"\xff" * 8,  # BigTIFF, whose directory is behind all bytes
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff",
        b"GIF89a",
    ],
)
def test_other_formats_and_mere_beginnings_are_refused_in_a_line(start, capfd):
    for data in (start, start + bytes(100)):
        with pytest.raises(ImageError, match=r"^the image ") as error:
            read_picture(data)
        assert "\n" not in str(error.value)
    assert capfd.readouterr().err == ""


class TestOneSizeOnly:
    """A decoder finds the size that was checked, and no other."""

    def test_of_two_frames_of_a_jpeg(self, rgb):
        data = encoded(".jpg", rgb)
        at = data.index(b"\xff\xc0")
        (length,) = struct.unpack_from(">H", data, at + 2)
        frame = data[at : at + 2 + length]
        with pytest.raises(ImageError, match="not a supported image"):
            read_picture(data[:at] + jpeg_of_size(frame, 60000, 60000) + data[at:])

    def test_of_two_headers_of_a_png(self, rgb):
        data = encoded(".png", rgb)
        with pytest.raises(ImageError, match="two IHDR chunks"):
            read_picture(data[:33] + data[8:])

    def test_of_two_widths_of_a_tiff(self):
        with pytest.raises(ImageError, match="not a supported image"):
            read_picture(tiff(4, 4, (256, 16000)))

    def test_of_tiles_that_are_larger_than_the_picture(self):
        with pytest.raises(ImageError, match="more than the limit of 0"):
            read_picture(tiff(4, 4, (322, 60000), (323, 60000)))

    def test_of_a_gif_whose_frame_is_larger_than_its_screen(self):
        data = b"GIF89a" + struct.pack("<HHBBB", 4, 4, 0x80, 0, 0) + bytes(6)
        data += b"," + struct.pack("<HHHHB", 0, 0, 60000, 60000, 0) + b"\x02\x02\x4c\x01\0;"
        with pytest.raises(ImageError):
            read_picture(data)

    def test_of_a_jpeg_of_endless_scans(self, rgb):
        """Each costs as much as a picture, and a few bytes."""
        data = encoded(".jpg", rgb, cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
        scan, end = data.rindex(b"\xff\xda"), data.rindex(b"\xff\xd9")
        with pytest.raises(ImageError, match="more than 100 scans"):
            read_picture(data[:end] + 100 * data[scan:end] + data[end:])


class TestWhatReachesADecoder:
    def test_only_what_shows_a_png(self, rgb):
        """No profile, text or later frame; what is packed in them inflates without end."""
        data = encoded(".png", rgb)
        bomb = zlib.compress(bytes(1 << 20))
        extra = [
            chunk(b"iCCP", b"x\0\0" + bomb),
            chunk(b"zTXt", b"x\0\0" + bomb),
            chunk(b"acTL", struct.pack(">II", 9, 0)),
            chunk(b"gAMA", bytes(4)),
        ]
        odd = data[:33] + b"".join(extra) + data[33:] + bytes(1000)
        assert read_header(odd, "", Limits()).image == data
        np.testing.assert_array_equal(read_image(odd), rgb)

    def test_only_what_shows_a_jpeg(self, rgb):
        data = encoded(".jpg", rgb)
        extra = b"\xff\xfe\0\x08secret" + b"\xff\xe2\0\x0aMPF\0junk" + b"\xff\xed\0\x04ps"
        odd = data[:2] + extra + data[2:] + data
        assert read_header(odd, "", Limits()).image == data
        np.testing.assert_array_equal(read_image(odd), read_image(data))

    def test_exif_data_that_lead_nowhere_turn_nothing(self, rgb, capfd):
        data = encoded(".jpg", rgb)
        for body in (b"II*\0\xff\xff\xff\xff" + b"\xff" * 16, b"MM\0*\0\0\0\x08\xff\xff", b""):
            exif = b"Exif\0\0" + body
            odd = data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:]
            np.testing.assert_array_equal(read_image(odd), read_image(data))
        assert capfd.readouterr().err == ""


def test_beside_damaged_tags_the_orientation_counts_and_nothing_is_warned_of(rgb):
    """Also where warnings are errors; one warning a tag would fill a log."""
    tags = [(270, 2, 900, 0xFFFFFF0), *((0xA000 + n, 2, 9, 0xFFFFFF0) for n in range(50))]
    body = b"".join(struct.pack("<HHII", *tag) for tag in [*tags, (274, 3, 1, 6)])
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(tags) + 1) + body + bytes(4)
    data = encoded(".jpg", rgb)
    turned = data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = read_image(turned)
    np.testing.assert_array_equal(found, np.rot90(read_image(data), -1))


@pytest.mark.parametrize("kind", ["png", "npy", "array", "pil"])
def test_a_side_is_limited_however_few_pixels_there_are(kind):
    """Each of a line's pixels takes a hundred bytes where it is resized."""
    side = 1_000_001
    if kind == "png":
        source = png(side, 1, pixels_chunk(bytes(1 + side)))
    elif kind == "npy":
        source = npy((1, side), "|u1", bytes(side))
    else:
        source = np.broadcast_to(np.uint8(7), (1, side))
        if kind == "pil":
            source = pytest.importorskip("PIL.Image").fromarray(np.array(source))
    with pytest.raises(
        ImageError, match=f"is {side} x 1 pixels; a side may have at most 1,000,000"
    ):
        read_picture(source)


def test_arrays_and_pil_images_are_limited_as_files_are():
    """Neither takes the memory that its size says, until it is read."""
    limits = Limits(pixels=99)
    for source in (
        np.broadcast_to(np.uint8(7), (10, 10, 3)),
        pytest.importorskip("PIL.Image").new("RGB", (10, 10)),
    ):
        with pytest.raises(ImageError, match="is 10 x 10, 100 pixels, more than the limit of 99"):
            read_picture(source, limits)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_a_transparent_grey_is_transparent(bits):
    """Of its own depth, whatever a decoder scales it to."""
    wide = 8 // bits
    rows = b"".join(b"\0" + bytes([value]) for value in (0x1B, 0xFF))
    data = png(wide, 2, chunk(b"tRNS", b"\0" + bytes([2**bits - 1])), pixels_chunk(rows), bits=bits)
    seen = decode(data, "", Limits()).values
    assert seen.shape == (2, wide, 4)
    np.testing.assert_array_equal(seen[..., 3] == 0, seen[..., 0] == 255)
    assert (seen[1, :, 3] == 0).all()


@pytest.mark.parametrize(
    ("shape", "dtype", "data"),
    [
        ((10**6, 10**6, 3), "|u1", b""),
        ((4, 4), "|O", b"\x80\x04."),
        ((4, 4), "<c8", bytes(128)),
        ((-4, 4, 3), "|u1", bytes(48)),
        ((4,), "|u1", bytes(4)),
        ((), "|u1", bytes(1)),
        ((0, 4, 3), "|u1", b""),
        ((4, 4, 1000), "|u1", bytes(16000)),
    ],
)
def test_npy_files_that_are_no_pictures(shape, dtype, data):
    with pytest.raises(ImageError):
        read_picture(npy(shape, dtype, data))

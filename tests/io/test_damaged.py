"""Damaged and cut-off pictures: refused in a line, or of the right size; nothing is printed."""

from __future__ import annotations

import io
import struct
import zlib
from contextlib import suppress

import cv2
import numpy as np
import pytest

from ibisa_onnx.errors import ImageError
from ibisa_onnx.io.images import read_picture
from tests.io.odd_pictures import SUFFIXES, chunk, encoded, pixels_chunk, png

CHECKED = (".png", ".jpg", ".webp", ".npy")
"""Formats that say where they end."""


@pytest.fixture(scope="module")
def pictures() -> dict[str, bytes]:
    """A photograph-like picture in every format, and in odd kinds of some."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (6, 9, 3), dtype=np.uint8)
    rgb = cv2.resize(coarse, (90, 64), interpolation=cv2.INTER_CUBIC)
    made = {suffix: encoded(suffix, rgb) for suffix in SUFFIXES}
    made["progressive.jpg"] = encoded(".jpg", rgb, cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
    made["restarts.jpg"] = encoded(".jpg", rgb, cv2.IMWRITE_JPEG_RST_INTERVAL, 3)
    made["lossless.webp"] = encoded(".webp", rgb, cv2.IMWRITE_WEBP_QUALITY, 101)
    made["sixteen.png"] = encoded(".png", rgb.astype(np.uint16) * 257)
    made["deep.tiff"] = encoded(".tiff", rgb.astype(np.float32))
    made["one.png"] = encoded(
        ".png", (rgb[..., 0] > 99) * np.uint8(255), cv2.IMWRITE_PNG_BILEVEL, 1
    )
    return made


KINDS = (*SUFFIXES, "progressive.jpg", "restarts.jpg", "lossless.webp", "sixteen.png", "deep.tiff")


def _refused_or_whole(data: bytes, name: str) -> bool:
    """Tell whether a picture is refused; no other error may be raised."""
    try:
        picture = read_picture(data)
    except ImageError:  # whose text is one line by its class
        return True
    assert picture.pixels.shape[2] == 3, name
    return False


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_cut_off_is_refused_where_the_format_tells(pictures, kind, capfd):
    data = pictures[kind]
    for tenth in range(10):
        refused = _refused_or_whole(data[: len(data) * tenth // 10], kind)
        assert refused or not kind.endswith(CHECKED), tenth
    assert capfd.readouterr().err == ""


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", KINDS)
def test_flipped_bytes_raise_no_other_error_and_print_nothing(pictures, kind, rng, capfd):
    data = pictures[kind]
    for _ in range(60):
        odd = bytearray(data)
        for place in rng.integers(0, len(data) if rng.random() < 0.5 else 80, 3):
            odd[place] ^= 1 << int(rng.integers(8))
        _refused_or_whole(bytes(odd), kind)
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


@pytest.mark.parametrize("kind", [".png", "sixteen.png", "one.png"])
def test_every_flipped_bit_of_the_pixels_of_a_png_is_noticed(pictures, kind, rng):
    data = pictures[kind]
    start = data.index(b"IDAT")
    for place in rng.integers(start, len(data) - 16, 40):
        odd = bytearray(data)
        odd[place] ^= 1 << int(rng.integers(8))
        with pytest.raises(ImageError, match=r"damaged|truncated"):
            read_picture(bytes(odd))


@pytest.mark.parametrize(
    ("rows", "bits"),
    [
        (b"\0\1\2\3" * 3, 8),
        (b"\0" * 15, 8),
        (b"\0\1\2\3" * 2 + b"\0\1", 8),
        (b"\5\1\2\3" * 4, 8),  # no such filter
        (b"\0\1\2\3\4\5\6" * 3, 16),
        (b"\0\1\2\3\4\5\6" * 5, 16),
        (b"\5\1\2\3\4\5\6" * 4, 16),
        (b"", 16),
    ],
)
def test_wrong_pixels_with_right_checksums(rows, bits, capfd):
    """Checksums are anyone's to write: what they cover is looked at, too."""
    with pytest.raises(ImageError, match="damaged"):
        read_picture(png(3, 4, pixels_chunk(rows), bits=bits))
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (3, 4), (9, 5), (40, 33)])
def test_sixteen_bits_are_checked_pass_by_pass_and_whole_ones_are_read(size, interlaced, rng):
    width, height = size
    header = struct.pack(">IIBBBBB", width, height, 16, 0, 0, 0, int(interlaced))
    values = rng.integers(0, 65536, (height, width), dtype=np.uint16)
    steps = [(0, 8, 0, 8), (0, 8, 4, 8), (4, 8, 0, 4), (0, 4, 2, 4), (2, 4, 0, 2), (0, 2, 1, 2)]
    passes = [*steps, (1, 2, 0, 1)] if interlaced else [(0, 1, 0, 1)]
    rows = [
        b"\0" + row.astype(">u2").tobytes()
        for top, down, left, across in passes
        for row in values[top::down, left::across]
        if row.size
    ]
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    data = start + pixels_chunk(b"".join(rows)) + chunk(b"IEND", b"")
    found = read_picture(data).deep
    np.testing.assert_array_equal(found.values[..., 0], values)
    with pytest.raises(ImageError, match="damaged"):
        read_picture(start + pixels_chunk(b"".join(rows)[:-1]) + chunk(b"IEND", b""))


class TestJpegThatEndsTooEarly:
    def _ended(self, data: bytes) -> bytes:
        """Cut a JPEG's data off, and end it as if it were whole."""
        scan = data.index(b"\xff\xda")
        return data[: (scan + len(data)) // 2] + b"\xff\xd9"

    def test_is_told_of_though_its_end_is_there(self, pictures):
        picture = read_picture(self._ended(pictures[".jpg"]))
        assert (picture.pixels[-16:] == 128).all()
        assert any("uniform grey" in each for each in picture.notes)

    def test_but_not_where_the_grey_is_the_picture_s_own(self, pictures):
        """Letterboxed pictures have such margins."""
        framed = np.full((200, 90, 3), 128, np.uint8)
        framed[60:124] = read_picture(pictures[".png"]).pixels
        for quality in (30, 75, 95):
            data = encoded(".jpg", framed, cv2.IMWRITE_JPEG_QUALITY, quality)
            picture = read_picture(data)
            assert (picture.pixels[-16:] == 128).all()
            assert picture.notes == ()

    def test_goes_along_with_the_explanation(self, pictures, mean_model):
        from ibisa_onnx import Explainer

        explainer = Explainer(mean_model(("n", 3, 8, 8)).SerializeToString(), providers=["cpu"])
        found = explainer.explain(self._ended(pictures[".jpg"]), method="random")
        assert any("uniform grey" in each for each in found.warnings)


@pytest.mark.filterwarnings("error")
class TestValues:
    """No value of a file makes NumPy warn."""

    @pytest.mark.parametrize(
        "values",
        [
            np.full((4, 4, 3), np.nan, np.float32),
            np.array([[0, np.inf]], np.float16),
            np.array([[-1e308, 1e308]]),
            np.array([[0, 5e-324]]),
            np.array([[1e38, -1e38]], np.float32),
            np.array([[-(2**63), 2**63 - 1]]),
            np.array([[0, 2**64 - 1]], np.uint64),
            np.full((3, 3), 65504, np.float16),
            np.array([[True, False]]),
        ],
        ids=lambda values: f"{values.dtype} {values.ravel()[-1]}",
    )
    @pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
    def test_to_the_model(self, values, dtype):
        from ibisa_onnx.preprocessing.spec import Preprocessing, prepare

        depth = "8-bit" if dtype == "uint8" else "full"
        spec = Preprocessing((2, 2), "stretch", channel_order="RGB", dtype=dtype, depth=depth)
        buffer = io.BytesIO()
        np.save(buffer, values)
        with suppress(ImageError):
            assert np.isfinite(prepare(read_picture(buffer.getvalue()), spec).tensor).all()


def test_what_is_packed_in_a_tiff_for_instruments_is_no_larger_than_its_pixels(rng):
    tifffile = pytest.importorskip("tifffile")
    buffer = io.BytesIO()
    values = rng.integers(0, 9, (20, 20, 6), dtype=np.uint16)
    options = {"photometric": "minisblack", "planarconfig": "contig"}
    tifffile.imwrite(buffer, values, compression="zlib", **options)
    data = buffer.getvalue()
    np.testing.assert_array_equal(read_picture(data).deep.values, values)
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        tags = file.pages[0].tags
        places = [tags[name].valueoffset for name in ("StripOffsets", "StripByteCounts")]
    bomb = zlib.compress(bytes(80 << 20), 1)
    odd = bytearray(data) + bomb
    for place, value in zip(places, (len(data), len(bomb)), strict=True):
        struct.pack_into("<I", odd, place, value)
    with pytest.raises(ImageError, match="more than its pixels"):
        read_picture(bytes(odd))

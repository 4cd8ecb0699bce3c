"""Texts in PNG files: read back, without a change to the picture, and from whole files alone."""

from __future__ import annotations

import struct
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ibisa_onnx.io.formats import encode_png
from ibisa_onnx.io.png_text import text_of, with_text

PIXELS = np.random.default_rng(0).integers(0, 256, (9, 14, 3), dtype=np.uint8)
PNG = encode_png(PIXELS)
MARKED = with_text(PNG, "key", "a text")


def chunk(letters: bytes, data: bytes, crc: int | None = None) -> bytes:
    crc = zlib.crc32(letters + data) if crc is None else crc
    return struct.pack(">I", len(data)) + letters + data + struct.pack(">I", crc)


def test_a_text_is_read_back_and_the_picture_stays():
    assert text_of(MARKED, "key") == "a text"
    assert text_of(MARKED, "another") is None
    assert text_of(PNG, "key") is None
    decoded = cv2.imdecode(np.frombuffer(MARKED, np.uint8), cv2.IMREAD_COLOR)
    assert np.array_equal(decoded[..., ::-1], PIXELS)


def test_a_file_that_was_cut_off_says_nothing():
    for cut in range(len(MARKED)):
        assert text_of(MARKED[:cut], "key") is None, cut


def test_a_file_with_any_byte_changed_says_nothing():
    for place in range(len(MARKED)):
        changed = bytearray(MARKED)
        changed[place] ^= 0x20
        assert text_of(bytes(changed), "key") is None, place


@pytest.mark.parametrize(
    "png",
    [
        MARKED + b"\0",
        MARKED + MARKED[8:],
        MARKED[:8] + chunk(b"tEXt", b"key\0a text") + PNG[8:],  # before the header
        MARKED[:8] + chunk(b"tEXt", b"key\0a text"),
        MARKED[:8] + b"\xff\xff\xff\xfftEXtkey\0a text",
        PNG[:33] + chunk(b"tEXt", b"key\0" + b"x" * (1 << 20)) + PNG[33:],
        PNG[:33] + chunk(b"tEXt", b"key\0a text", crc=0) + PNG[33:],
    ],
)
def test_a_file_that_is_none_says_nothing(png):
    assert text_of(png, "key") is None


@given(st.binary(max_size=200))
def test_any_bytes_are_read_without_an_error(data):
    text_of(data, "key")
    text_of(PNG[:33] + data, "key")
    text_of(PNG[:33] + chunk(b"tEXt", data) + PNG[33:], "key")


@pytest.mark.parametrize(("png", "text"), [(b"GIF89a", "text"), (PNG, "x" * (1 << 20))])
def test_what_could_not_be_read_back_is_not_written(png, text):
    with pytest.raises(ValueError, match="not a PNG"):
        with_text(png, "key", text)

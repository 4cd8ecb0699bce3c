"""Texts inside PNG files, and whether such a file is whole; pixels are drawn elsewhere.

A PNG is a row of chunks, each with its length, four letters, its bytes and their CRC-32; a `tEXt`
chunk holds a key and a text in Latin-1 (https://www.w3.org/TR/png-3/#11tEXt).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_HEADER, _END, _TEXT = b"IHDR", b"IEND", b"tEXt"
_AROUND = 12  # bytes of a chunk beside its data: length, letters, CRC-32
_LONGEST = 1 << 20  # bytes of a text: what others wrote may have any length


def with_text(png: bytes, key: str, text: str) -> bytes:
    """Return a PNG with a text behind its header.

    Parameters
    ----------
    png
        A whole PNG file, without a text of that key.
    key
        1 to 79 characters of Latin-1.
    text
        ASCII, without zero bytes.

    Raises
    ------
    ValueError
        It is no PNG, or the text is none that `text_of` reads.
    """
    data = key.encode("latin-1") + b"\0" + text.encode("ascii")
    if not png.startswith(_SIGNATURE) or len(data) > _LONGEST:
        raise ValueError(f"{len(png)} bytes, which are no PNG, or {len(data)} bytes of text")
    crc = zlib.crc32(_TEXT + data).to_bytes(4, "big")
    chunk = len(data).to_bytes(4, "big") + _TEXT + data + crc
    start = len(_SIGNATURE)
    place = start + _AROUND + int.from_bytes(png[start : start + 4], "big")
    return png[:place] + chunk + png[place:]


def text_of(png: bytes, key: str) -> str | None:
    """Return the text of a key in a PNG file, of several the first.

    None where there is no such text, it is longer than a mebibyte, or the file is not whole: cut
    off, with more behind its end, or with a chunk whose CRC-32 is another.
    """
    head, found, ended = key.encode("latin-1") + b"\0", None, False
    try:
        for place, (letters, data) in enumerate(_chunks(png)):
            if ended or (place == 0) != (letters == _HEADER):
                return None
            ended = letters == _END
            mine = letters == _TEXT and len(data) <= _LONGEST and data[: len(head)] == head
            if mine and found is None:
                found = str(data[len(head) :], "latin-1")
    except ValueError:
        return None
    return found if ended else None


def _chunks(png: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Yield letters and data of each chunk; ValueError where one is cut off or damaged."""
    if not png.startswith(_SIGNATURE):
        raise ValueError("no PNG")
    view, place = memoryview(png), len(_SIGNATURE)
    while place < len(view):
        end = place + _AROUND + int.from_bytes(view[place : place + 4], "big")
        body = view[place + 4 : end - 4]
        if end > len(view) or zlib.crc32(body) != int.from_bytes(view[end - 4 : end], "big"):
            raise ValueError("a chunk is cut off or damaged")
        yield bytes(body[:4]), body[4:]
        place = end

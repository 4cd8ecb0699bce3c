"""Text chunks of PNG files; also tells whether a file is complete.

A PNG is a sequence of chunks, each with its length, four letters, data and CRC-32; a `tEXt` chunk
contains a key and a text in Latin-1 (https://www.w3.org/TR/png-3/#11tEXt).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_HEADER, _END, _TEXT = b"IHDR", b"IEND", b"tEXt"
_AROUND = 12  # bytes of a chunk in addition to its data: length, letters, CRC-32
_LONGEST = 1 << 20  # bytes of a text: untrusted ones may have any length


def with_text(png: bytes, key: str, text: str) -> bytes:
    """Return a PNG with a text chunk after its header.

    Parameters
    ----------
    png
        A complete PNG file, without a text for that key.
    key
        1 to 79 characters of Latin-1.
    text
        ASCII, without null bytes.

    Returns
    -------
    bytes
        The PNG file.

    Raises
    ------
    ValueError
        `png` is not a PNG, or the text is longer than `text_of` reads.
    """
    data = key.encode("latin-1") + b"\0" + text.encode("ascii")
    if not png.startswith(_SIGNATURE) or len(data) > _LONGEST:
        raise ValueError(f"not a PNG ({len(png)} bytes), or too much text ({len(data)} bytes)")
    crc = zlib.crc32(_TEXT + data).to_bytes(4, "big")
    chunk = len(data).to_bytes(4, "big") + _TEXT + data + crc
    start = len(_SIGNATURE)
    place = start + _AROUND + int.from_bytes(png[start : start + 4], "big")
    return png[:place] + chunk + png[place:]


def text_of(png: bytes, key: str) -> str | None:
    """Return the text for a key in a PNG file; the first if there are several.

    None if there is no such text, it is longer than 1 MiB, or the file is incomplete: truncated,
    with trailing data, or with a wrong CRC-32.
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
    """Yield the letters and data of each chunk; raise ValueError if one is truncated or damaged."""
    if not png.startswith(_SIGNATURE):
        raise ValueError("not a PNG")
    view, place = memoryview(png), len(_SIGNATURE)
    while place < len(view):
        end = place + _AROUND + int.from_bytes(view[place : place + 4], "big")
        body = view[place + 4 : end - 4]
        if end > len(view) or zlib.crc32(body) != int.from_bytes(view[end - 4 : end], "big"):
            raise ValueError("a chunk is truncated or damaged")
        yield bytes(body[:4]), body[4:]
        place = end

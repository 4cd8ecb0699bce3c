"""Reads integer tags of TIFF files and EXIF data, from the first directory.

Why not by a library: what is checked before decoding must be what is decoded, but decoders disagree
on tags that occur twice or have odd types, so TIFF files are read more strictly than by any of
them. EXIF data share the reader, because Pillow's writes a warning to stderr for each damaged tag
and gives up where warnings are errors, so that the image would be rotated wrongly.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

_TYPES = {3: "H", 4: "I", 16: "Q"}
_SIZES = {3: 2, 4: 4, 16: 8}
_MOST_TAGS = 4096
_MOST_VALUES = 64

Tags = Mapping[int, tuple[int, ...]]


def read_directory(data: bytes, once: tuple[int, ...] = ()) -> Tags | None:
    """Read the first directory of a TIFF or BigTIFF file, or of EXIF data.

    Parameters
    ----------
    data
        The data, from the byte order mark on.
    once
        Tags that must occur at most once, as integers.

    Returns
    -------
    Mapping or None
        Values of integer tags; None if the data are invalid or truncated, or violate `once`.
    """
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None:
        return None
    try:
        (version,) = struct.unpack_from(f"{order}H", data, 2)
        if version not in (42, 43):
            return None
        return _directory(data, order, once, big=version == 43)
    except (struct.error, OverflowError):  # it points beyond its end
        return None


def _directory(
    data: bytes, order: str, once: tuple[int, ...], *, big: bool
) -> dict[int, tuple[int, ...]] | None:
    """Return the tags by number."""
    word, size = ("Q", 8) if big else ("I", 4)
    (at,) = struct.unpack_from(f"{order}{word}", data, 8 if big else 4)
    (count,) = struct.unpack_from(f"{order}{'Q' if big else 'H'}", data, at)
    at += 8 if big else 2
    found: dict[int, tuple[int, ...]] = {}
    for entry in range(at, at + min(count, _MOST_TAGS) * (4 + 2 * size), 4 + 2 * size):
        tag, kind, length = struct.unpack_from(f"{order}HH{word}", data, entry)
        known = kind in _TYPES and 0 < length <= _MOST_VALUES
        if tag in once and (tag in found or not known):
            return None
        if not known:
            continue
        place = entry + 4 + size
        if length * _SIZES[kind] > size:
            (place,) = struct.unpack_from(f"{order}{word}", data, place)
        found[tag] = struct.unpack_from(f"{order}{length}{_TYPES[kind]}", data, place)
    return found

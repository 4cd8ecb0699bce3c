"""Tags of TIFF files and of EXIF data: those that are whole numbers, of the first directory."""

from __future__ import annotations

import struct
from collections.abc import Mapping

_TYPES = {3: "H", 4: "I", 16: "Q"}
_SIZES = {3: 2, 4: 4, 16: 8}
_MOST_TAGS = 4096
_MOST_VALUES = 64
_ORIENTATION = 274

Tags = Mapping[int, tuple[int, ...]]


def read_directory(data: bytes, once: tuple[int, ...] = ()) -> Tags | None:
    """Read the first directory of a TIFF or BigTIFF file, or of EXIF data.

    Parameters
    ----------
    data
        It, from its byte order on.
    once
        Tags that may be there once, as whole numbers: of what else they are, readers differ in what
        they take it for.

    Returns
    -------
    Mapping or None
        The values of the tags that are whole numbers; None where it is no such data, is cut off, or
        has one of `once` otherwise.
    """
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None:
        return None
    try:
        (version,) = struct.unpack_from(f"{order}H", data, 2)
        if version not in (42, 43):
            return None
        return _directory(data, order, once, big=version == 43)
    except (struct.error, OverflowError):  # it points behind its end
        return None


def orientation_of(data: bytes) -> int:
    """Return the orientation that EXIF data say, 1 to 8; 1, as stored, where they do not."""
    return orientation_in(read_directory(data) or {})


def orientation_in(tags: Tags) -> int:
    """Return the orientation among tags, 1 to 8; 1 where it is not."""
    found = tags.get(_ORIENTATION, (1,))[0]
    return found if 1 <= found <= 8 else 1


def _directory(
    data: bytes, order: str, once: tuple[int, ...], *, big: bool
) -> dict[int, tuple[int, ...]] | None:
    """Return the tags by their numbers."""
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

"""Reads a model's protobuf without the values of its weights.

Names, external weights and node counts of a large file are then known without reading hundreds of
megabytes. Only large fields are examined; everything else is copied unchanged and parsed by the
protobuf library, so that both readers agree.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import BinaryIO

from ibisa_onnx.errors import ModelError
from ibisa_onnx.limits import Limits, variable

LARGEST = 2**31 - 1
"""Maximum bytes of a protobuf; no library reads more."""
_WHOLE = 2 << 20  # bytes; smaller files are parsed as they are
_LARGE = 4096  # bytes; smaller fields are not examined
_PARTS_PER_NODE = 4  # weights and tensor types count too

# Field numbers of onnx.proto that may contain weights, and their message; None means values.
_Fields = Mapping[int, "str | None"]
_MESSAGES: Mapping[str, _Fields] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": dict.fromkeys((4, 5, 6, 7, 9, 10, 11)),
}
_VARINT, _BYTES, _FIXED = 0, 2, {1: 8, 5: 4}  # wire types
_LONGEST_VARINT = 10  # bytes
_DEEPEST = 100  # nested messages; the protobuf library's own limit
_AHEAD = 1 << 16  # bytes that are read at a time

_Piece = bytes | tuple[int, int]  # bytes, or a range of the file


class _NotReadError(Exception):
    """The bytes are not a protobuf, or are encoded as no writer encodes them."""


class _TooManyPartsError(Exception):
    """There are more fields than a model of the allowed size has."""


def skeleton_of(file: BinaryIO, size: int, label: str, limits: Limits) -> bytes:
    """Return a model's protobuf without the values of its large tensors.

    Parameters
    ----------
    file
        The model, at its start; must be seekable.
    size
        Its size in bytes.
    label
        Name of the model in error messages.
    limits
        `nodes` limits the number of fields read.

    Returns
    -------
    bytes
        A protobuf.

    Raises
    ------
    ModelError
        It has more fields than that many nodes can have.
    """
    if size <= _WHOLE:
        return file.read(size)
    reader = _Reader(file, limits.nodes * _PARTS_PER_NODE)
    try:
        pieces, _ = reader.pieces(0, size, "model")
    except _NotReadError:
        file.seek(0)
        return file.read(size)
    except _TooManyPartsError:
        raise ModelError(
            f"{label} has more than {limits.nodes * _PARTS_PER_NODE:,} parts, too many for the "
            f"limit of {limits.nodes:,} nodes; set {variable('nodes')} to allow more"
        ) from None
    return b"".join(reader.read(*each) if isinstance(each, tuple) else each for each in pieces)


class _Reader:
    """Finds the parts of a file to keep, skips tensor values, and counts fields."""

    def __init__(self, file: BinaryIO, most: int) -> None:
        self._file, self._left = file, most
        self._window, self._start = b"", 0

    def pieces(self, place: int, end: int, kind: str, depth: int = 0) -> tuple[list[_Piece], int]:
        """Return the parts to keep of the message in this range of the file, and their size."""
        if depth > _DEEPEST:
            raise _NotReadError
        fields, kept, size, begun = _MESSAGES[kind], list[_Piece](), 0, place
        while place < end:
            start = place
            number, place, stop = self._field(place)
            if stop > end:
                raise _NotReadError
            if stop - place > _LARGE and number in fields:
                kept.append((begun, start))
                size += start - begun
                inner = fields[number]
                if inner is not None:
                    parts, length = self.pieces(place, stop, inner, depth + 1)
                    head = _varint(number << 3 | _BYTES) + _varint(length)
                    kept += [head, *parts]
                    size += len(head) + length
                begun = stop
            place = stop
        kept.append((begun, end))
        return kept, size + end - begun

    def read(self, start: int, stop: int) -> bytes:
        """Read a range of the file."""
        self._file.seek(start)
        return self._file.read(stop - start)

    def _field(self, place: int) -> tuple[int, int, int]:
        """Return the number of the field at `place`, and the start and end of its value."""
        self._left -= 1
        if self._left < 0:
            raise _TooManyPartsError
        key, place = self._varint(place)
        wire = key & 7
        if wire == _BYTES:
            length, place = self._varint(place)
        elif wire == _VARINT:
            length = self._varint(place)[1] - place
        elif wire in _FIXED:
            length = _FIXED[wire]
        else:  # a group, which is obsolete
            raise _NotReadError
        return key >> 3, place, place + length

    def _varint(self, place: int) -> tuple[int, int]:
        """Return the number at `place`, and the position after it."""
        at = place - self._start
        if not 0 <= at <= len(self._window) - _LONGEST_VARINT:
            self._window, self._start, at = self.read(place, place + _AHEAD), place, 0
        value = shift = 0
        for byte in self._window[at : at + _LONGEST_VARINT]:
            place += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value, place
            shift += 7
        raise _NotReadError


def _varint(number: int) -> bytes:
    """Encode a number as a protobuf varint."""
    written = bytearray()
    while number > 127:
        written.append(number & 127 | 128)
        number >>= 7
    written.append(number)
    return bytes(written)

"""A model's protobuf without the values of its weights, read past them.

What a large file says, where its external weights lie and how many nodes it has, is known without
the hundreds of megabytes that it holds beside. Only what is large is looked into: all else is taken
as it is, and the protobuf library parses what is left, so that both read the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import BinaryIO

from ibisa_onnx.errors import ModelError
from ibisa_onnx.limits import Limits, variable

LARGEST = 2**31 - 1
"""Bytes of a protobuf; no library reads more."""
_WHOLE = 2 << 20  # bytes; a file of no more is parsed as it is
_LARGE = 4096  # bytes; what is smaller is not looked into
_PARTS_PER_NODE = 4  # weights and the types of tensors count, too

# Field numbers of onnx.proto: those that may hold weights, and what they are; None is values.
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
_DEEPEST = 100  # messages inside each other; the protobuf library reads no more
_AHEAD = 1 << 16  # bytes that are read at a time

_Piece = bytes | tuple[int, int]  # what is written, or a range of the file


class _NotReadError(Exception):
    """These bytes are no protobuf, or one that is written otherwise than any writer does."""


class _TooManyPartsError(Exception):
    """There are more fields than a model of the allowed size has."""


def skeleton_of(file: BinaryIO, size: int, label: str, limits: Limits) -> bytes:
    """Return a model's protobuf without the values of its large tensors.

    Parameters
    ----------
    file
        It, from its beginning; it can be sought in.
    size
        Its bytes.
    label
        What to call the model in an error.
    limits
        `nodes` limits what is looked at.

    Raises
    ------
    ModelError
        It has more parts than so many nodes can have.
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
            f"{label} has more than {limits.nodes * _PARTS_PER_NODE:,} parts, where at most "
            f"{limits.nodes:,} nodes are allowed; set {variable('nodes')} to allow more"
        ) from None
    return b"".join(reader.read(*each) if isinstance(each, tuple) else each for each in pieces)


class _Reader:
    """Reads which parts of a file are kept, past the values of tensors; counts the fields."""

    def __init__(self, file: BinaryIO, most: int) -> None:
        self._file, self._left = file, most
        self._window, self._start = b"", 0

    def pieces(self, place: int, end: int, kind: str, depth: int = 0) -> tuple[list[_Piece], int]:
        """Return what is kept of the message in this range of the file, and how many bytes."""
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
        """Return the number of the field that begins here, and where its value begins and ends."""
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
        else:  # a group, which nobody writes
            raise _NotReadError
        return key >> 3, place, place + length

    def _varint(self, place: int) -> tuple[int, int]:
        """Return the number that begins here, and the place behind it."""
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
    """Write a number as protobuf does."""
    written = bytearray()
    while number > 127:
        written.append(number & 127 | 128)
        number >>= 7
    written.append(number)
    return bytes(written)

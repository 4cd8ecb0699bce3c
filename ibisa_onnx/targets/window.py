"""Selections of an output's values, and how several values become one.

An index covers the axes after the batch. In an output that is a map, a point of the image selects
a cell.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ibisa_onnx.errors import AbsentTargetError, TargetError
from ibisa_onnx.io.literals import parse_integer
from ibisa_onnx.models.head import Head
from ibisa_onnx.targets.base import Doubles, Raw

if TYPE_CHECKING:
    from ibisa_onnx.preprocessing.geometry import Geometry

Index = str | int | tuple[int | slice, ...]
"""Selection of an output's values: a string such as `"0,:,5"`, an integer, or a tuple.

It covers the axes after the batch, by integers and slices; omitted axes are selected whole.
"""
_RANGE = re.compile(r"(-?[0-9]{1,18})?:(-?[0-9]{1,18})?")
Span = tuple[int, int]
"""First position on an axis, and the one after the last."""
Point = tuple[float, float]
"""x and y, in pixels of the original image."""


@dataclass(frozen=True)
class _Reduction:
    """How several values become one.

    Attributes
    ----------
    of
        Reduces values [N, K] to one per row, [N].
    weights
        Its derivative with respect to the values, [N, K].
    write
        Appends nodes after a tensor [N, K], given K; returns the name of a tensor [N, 1].
    """

    of: Callable[[Doubles], Doubles]
    weights: Callable[[Doubles], Doubles]
    write: Callable[[Head, str, int], str]


def _at_largest(rows: Doubles) -> Doubles:
    found = np.zeros_like(rows)
    found[np.arange(len(rows)), rows.argmax(1)] = 1
    return found


def _write_mean(head: Head, rows: str, count: int) -> str:
    row = head.op("Reshape", rows, head.constant([0, 1, -1], np.int64))
    mean = head.op("GlobalAveragePool", row)
    return head.op("Reshape", mean, head.constant([-1, 1], np.int64))


REDUCTIONS: Mapping[str, _Reduction] = MappingProxyType(
    {
        "mean": _Reduction(
            lambda rows: rows.mean(1),
            lambda rows: np.full_like(rows, 1 / rows.shape[1]),
            _write_mean,
        ),
        "max": _Reduction(
            lambda rows: rows.max(1), _at_largest, lambda head, rows, count: head.largest(rows)
        ),
        "sum": _Reduction(
            lambda rows: rows.sum(1),
            np.ones_like,
            lambda head, rows, count: head.op(
                "Mul", _write_mean(head, rows, count), head.constant(count)
            ),
        ),
    }
)
"""Reductions by name."""


@dataclass(frozen=True)
class Window:
    """Selection of an output's values, and how they become one.

    Attributes
    ----------
    output
        Name of an output or inner tensor, [N, ...].
    sides
        Its shape without the batch.
    spans
        Selected range on each of these axes.
    reduce
        Key of `REDUCTIONS`.
    """

    output: str
    sides: tuple[int, ...]
    spans: tuple[Span, ...]
    reduce: str = "mean"

    @property
    def count(self) -> int:
        """Number of selected values."""
        return int(np.prod([stop - start for start, stop in self.spans]))

    def of(self, raw: Raw) -> Doubles:
        """Return the value of each row, float64 [N]."""
        return REDUCTIONS[self.reduce].of(self._rows(raw))

    def vjp(self, raw: Raw, slopes: Doubles) -> npt.NDArray[np.float32]:
        """Return the gradient of the output, from that of the values, [N]."""
        weights = REDUCTIONS[self.reduce].weights(self._rows(raw)) * slopes[:, None]
        cotangent = np.zeros(raw[self.output].shape, np.float32)
        part = cotangent[self._place]
        part[...] = weights.reshape(part.shape)
        return cotangent

    def to_onnx(self, head: Head) -> str:
        """Append nodes that compute the value, float32 [N, 1]."""
        part = self.output
        for axis, (span, side) in enumerate(zip(self.spans, self.sides, strict=True), 1):
            if span != (0, side):
                part = head.op("Gather", part, head.constant(range(*span), np.int64), axis=axis)
        return REDUCTIONS[self.reduce].write(head, head.rows(part), self.count)

    @property
    def _place(self) -> tuple[slice, ...]:
        return slice(None), *(slice(start, stop) for start, stop in self.spans)

    def _rows(self, raw: Raw) -> Doubles:
        values = raw[self.output]
        return np.asarray(values[self._place], np.float64).reshape(len(values), -1)


def spans_of(index: Index | None, sides: tuple[int, ...], output: str) -> tuple[Span, ...]:
    """Return the range that an index selects on each axis after the batch.

    Parameters
    ----------
    index
        Selection; None for all.
    sides
        Shape of the output without the batch.
    output
        Name of the output, for errors.

    Raises
    ------
    TargetError
        The index is invalid, or selects nothing.
    """
    parts = () if index is None else _parts(index, sides, output)
    said = f"output {output} is {shape_text(sides)}"
    if len(parts) > len(sides):
        raise TargetError(
            f"index {index_text(index)!r} has {len(parts)} parts, but {said}, with {len(sides)} "
            "after the batch"
        )
    spans: list[Span] = []
    for axis, side in enumerate(sides):
        part = parts[axis] if axis < len(parts) else slice(None)
        if isinstance(part, slice):
            start, stop, _ = part.indices(side)
            fits = start < stop
        else:
            start = part + side if part < 0 else part
            stop, fits = start + 1, 0 <= start < side
        if not fits:
            raise TargetError(
                f"index {index_text(index)!r} selects nothing: {said}, and its axis {axis + 1} "
                f"runs from 0 to {side - 1}"
            )
        spans.append((start, stop))
    return tuple(spans)


def cell_at(point: Point, geometry: Geometry, sides: tuple[int, int]) -> tuple[int, int]:
    """Return row and column of the map cell at a point of the image.

    Parameters
    ----------
    point
        x and y of a pixel's corner, in pixels of the original image.
    geometry
        Mapping between pixels of the original image and of the model input.
    sides
        Height and width of the map, which covers the model input.

    Raises
    ------
    AbsentTargetError
        The preprocessing crops that point away.
    """
    cells = []
    for place, axis in ((point[1], 0), (point[0], 1)):
        place = min(place + 0.5, geometry.picture[axis] - 0.5)  # centre of the pixel
        inside = geometry.offset[axis] + place * geometry.scale[axis]
        if not 0 <= inside <= geometry.model[axis]:
            raise AbsentTargetError(
                f"the model does not see {point[0]:g},{point[1]:g}: its preprocessing crops it "
                "away; pass overrides={'resize': 'stretch'} to use the whole image"
            )
        cell = math.floor(inside * sides[axis] / geometry.model[axis])
        cells.append(min(cell, sides[axis] - 1))
    return cells[0], cells[1]


def cells_seen(geometry: Geometry, sides: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Return whether the centre of each map cell lies within the image, bool [h, w]; see `cell_at`.

    If the image is thinner than a cell, the cells along its middle count as within.
    """
    seen = []
    for axis in (0, 1):
        stride = geometry.model[axis] / sides[axis]
        middles = (np.arange(sides[axis]) + 0.5) * stride - geometry.offset[axis]
        middles /= geometry.scale[axis]
        shown = (middles >= 0) & (middles <= geometry.picture[axis])
        if not shown.any():
            shown[np.abs(middles - geometry.picture[axis] / 2).argmin()] = True
        seen.append(shown)
    return np.asarray(seen[0][:, None] & seen[1])


def point_of(row: int, column: int, geometry: Geometry, sides: tuple[int, int]) -> Point:
    """Return the image's point at the centre of a map cell; see `cell_at`."""
    found = [
        ((place + 0.5) / sides[axis] * geometry.model[axis] - geometry.offset[axis])
        / geometry.scale[axis]
        for place, axis in ((column, 1), (row, 0))
    ]
    return round(found[0], 1), round(found[1], 1)


def _parts(index: Index, sides: tuple[int, ...], output: str) -> list[int | slice]:
    """Parse an index, whose parts are integers, or slices without a step."""
    if isinstance(index, str):
        return [_part(word.strip(), index, sides, output) for word in index.split(",")]
    parts = list(index) if isinstance(index, tuple) else [index]
    for part in parts:
        whole = isinstance(part, int | np.integer) and not isinstance(part, bool)
        if not whole and not (isinstance(part, slice) and part.step in (None, 1)):
            raise TargetError(_unread(part, index_text(index), sides, output))
    return [part if isinstance(part, slice) else int(part) for part in parts]


def check_index(index: str) -> None:
    """Raise `TargetError` if an index, as text, can be read for no output."""
    for word in map(str.strip, index.split(",")):
        if _read_part(word) is None:
            raise TargetError(f"index {index!r}: {word!r} is not an integer or a range such as 2:5")


def _part(word: str, index: str, sides: tuple[int, ...], output: str) -> int | slice:
    part = _read_part(word)
    if part is None:
        raise TargetError(_unread(word, index, sides, output))
    return part


def _read_part(word: str) -> int | slice | None:
    number = parse_integer(word)
    if number is not None:
        return number
    if found := _RANGE.fullmatch(word):
        start, stop = (int(each) if each else None for each in found.groups())
        return slice(start, stop)
    return None


def _unread(part: object, index: str, sides: tuple[int, ...], output: str) -> str:
    return (
        f"index {index!r}: {part!r} is not an integer or a range such as 2:5; "
        f"output {output} is {shape_text(sides)}, and an index covers the axes after the batch"
    )


def index_text(index: Index | None) -> str:
    """Format an index as users write it."""
    if not isinstance(index, tuple):
        return "".join(str(index).split())

    def part(each: object) -> str:
        if not isinstance(each, slice):
            return str(each)
        ends = ("" if end is None else str(end) for end in (each.start, each.stop))
        return ":".join(ends)

    return ",".join(map(part, index))


def shape_text(sides: Sequence[int]) -> str:
    """Format the shape of an output, given its axes after the batch."""
    return f"[{', '.join(map(str, ('N', *sides)))}]"

"""Sliding windows: the geometry shared by convolution and pooling, and its transpose.

Everything here is exact for any number of axes, stride, dilation and padding. Shapes are tensors of
the backward graph: constants if the image size is static, computed at run time if it is dynamic.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import product

import numpy as np
import onnx

from ibisa_onnx.autodiff.node import Node
from ibisa_onnx.autodiff.tape import END, Operand, Tape
from ibisa_onnx.autodiff.types import Dimension
from ibisa_onnx.errors import UnsupportedOperatorError

Offset = tuple[int, ...]
_MOST_TAPS = 1 << 20  # some gradients write a node per tap


@dataclass(frozen=True)
class Windows:
    """Windows of `kernel` taps every `strides`, from `x` padded before and after to `y`."""

    x: str
    y: str
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]

    @classmethod
    def read(cls, tape: Tape, node: Node, kernel: Sequence[int]) -> Windows:
        """Read the windows of a Conv or pooling node."""
        n = len(kernel)
        if n == 0:
            raise UnsupportedOperatorError("the shape of its kernel is unknown")
        if math.prod(kernel) > _MOST_TAPS:
            raise UnsupportedOperatorError(
                f"a kernel of {math.prod(kernel):,} taps is not supported"
            )
        strides = tuple(node.attribute("strides", [1] * n))
        dilations = tuple(node.attribute("dilations", [1] * n))
        extents = [d * (k - 1) + 1 for d, k in zip(dilations, kernel, strict=True)]
        pads = _pads(tape, node, strides, extents)
        before, after = tuple(pads[:n]), tuple(pads[n:])
        x, y = node.input(0), node.outputs[0]
        if node.attribute("ceil_mode", 0):
            _require_starts_inside(tape.dims(x), tape.dims(y), strides, before)
        return cls(x, y, tuple(kernel), strides, dilations, before, after)

    @property
    def extents(self) -> tuple[int, ...]:
        """Extent of a window along each axis, including dilation."""
        return tuple(d * (k - 1) + 1 for d, k in zip(self.dilations, self.kernel, strict=True))

    @property
    def transposed_pads(self) -> list[int]:
        """Padding of the stride-1 convolution that transposes a stride-1 convolution."""
        pads = zip(self.before + self.after, self.extents * 2, strict=True)
        return [extent - 1 - pad for pad, extent in pads]

    # -- the transpose with weights

    def scatter(self, tape: Tape, dy: str, kernel: Operand, group: int) -> str:
        """Add each window's weighted taps to their sources: `x`'s shape."""
        common = {"strides": self.strides, "dilations": self.dilations, "group": group}
        sides, counts = tape.dims(self.x)[2:], tape.dims(self.y)[2:]
        if not all(isinstance(side, int) for side in (*sides, *counts)):
            pads = [*self.before, *[0] * len(self.kernel)]
            full = tape.op("ConvTranspose", dy, kernel, pads=pads, **common)
            return self._fit(tape, full)
        geometry = zip(counts, self.strides, self.extents, self.before, sides, strict=True)
        excess = [(int(n) - 1) * s + e - b - int(i) for n, s, e, b, i in geometry]  # type: ignore[arg-type]
        return tape.op(
            "ConvTranspose",
            dy,
            kernel,
            pads=[*self.before, *(max(side, 0) for side in excess)],
            output_padding=[max(-side, 0) for side in excess],
            **common,
        )

    def spread(self, tape: Tape, dy: str) -> str:
        """Scatter with weights of 1, channel by channel."""
        one = tape.constant(np.ones((1, 1, *self.kernel), tape.dtype(self.x)))
        rest = tape.op("Slice", tape.op("Shape", dy), tape.ints(2), tape.ints(END))
        planes = tape.op("Concat", tape.ints(-1, 1), rest, axis=0)
        flat = self.scatter(tape, tape.op("Reshape", dy, planes), one, 1)
        return tape.reshape(flat, like=self.x)

    def populations(self, tape: Tape, padded: bool) -> str:
        """Return the number of taps of each window, on the image or including padding."""
        n, total = len(self.kernel), None
        for axis in range(n):
            starts = tape.op("Mul", self._positions(tape, axis), tape.ints(self.strides[axis]))
            steps = np.arange(self.kernel[axis]) * self.dilations[axis] - self.before[axis]
            taps = tape.op("Add", tape.op("Unsqueeze", starts, tape.ints(1)), steps)
            low = tape.ints(-self.before[axis] if padded else 0)
            side = tape.side(self.x, 2 + axis)
            high = tape.op("Add", side, tape.ints(self.after[axis])) if padded else side
            inside = tape.op(
                "And", tape.op("GreaterOrEqual", taps, low), tape.op("Less", taps, high)
            )
            count = tape.op("Cast", inside, to=tape.type(self.x).elem)
            count = tape.op("ReduceSum", count, tape.ints(1), keepdims=0)
            count = tape.op("Reshape", count, tape.ints(-1, *[1] * (n - 1 - axis)))
            total = count if total is None else tape.op("Mul", total, count)
        assert total is not None
        return total

    def _positions(self, tape: Tape, axis: int) -> str:
        return tape.count_up(tape.side(self.y, 2 + axis))

    def _fit(self, tape: Tape, full: str) -> str:
        """Cut or zero-fill the ends of the spatial axes to `x`'s shape."""
        missing = tape.op("Sub", self._sides(tape, self.x), self._sides(tape, full))
        zeros = tape.ints(*[0] * (len(self.kernel) + 4))
        return tape.op("Pad", full, tape.op("Concat", zeros, missing, axis=0))

    # -- tap by tap

    @property
    def offsets(self) -> list[Offset]:
        """Position of each tap in its window."""
        steps = (range(0, k * d, d) for k, d in zip(self.kernel, self.dilations, strict=True))
        return list(product(*steps))

    def taps(self, tape: Tape, x: str, fill: str) -> list[str]:
        """Return each tap's values in all windows, in row-major order: tensors of `y`'s shape."""
        n = len(self.kernel)
        inside = tape.op("Add", self._sides(tape, self.x), tape.ints(*self.before))
        end = tape.op("Sub", self._spans(tape), inside)
        pads = tape.op("Concat", tape.ints(0, 0, *self.before, 0, 0), end, axis=0)
        padded = tape.op("Pad", x, pads, fill)
        channels, size = tape.dims(x)[1], self.strides[0]
        if n == 2 and size > 1 and self.strides == (size, size) and isinstance(channels, int):
            return self._taps_by_phase(tape, padded, channels)
        axes, steps = tape.ints(*range(2, 2 + n)), tape.ints(*self.strides)
        length = tape.op("Mul", self._sides(tape, self.y), steps)
        return [
            tape.op(
                "Slice",
                padded,
                tape.ints(*offset),
                tape.op("Add", length, tape.ints(*offset)),
                axes,
                steps,
            )
            for offset in self.offsets
        ]

    def _taps_by_phase(self, tape: Tape, padded: str, channels: int) -> list[str]:
        """Return the taps for square strides: one SpaceToDepth, then slices without steps."""
        size, taps = self.strides[0], list[str]()
        phases = tape.op("SpaceToDepth", padded, blocksize=size)
        counts = self._sides(tape, self.y)
        for row, column in self.offsets:
            first = channels * (size * (row % size) + column % size)
            start = tape.ints(first, row // size, column // size)
            end = tape.op("Add", counts, tape.ints(row // size, column // size))
            end = tape.op("Concat", tape.ints(first + channels), end, axis=0)
            taps.append(tape.op("Slice", phases, start, end, tape.ints(1, 2, 3)))
        return taps

    def places(self, tape: Tape, passed: Sequence[str]) -> str:
        """Return the position in a plane of `x` of the selected tap of each window; int32.

        `passed` are masks of `y`'s shape, one per tap except the last, in row-major order: true if
        the selected tap comes later.
        """
        _, *strides = self._strides_of_planes(tape)
        starts = [self._starts(tape, axis) for axis in range(len(self.kernel))]
        first_taps = self._in_plane(tape, starts, strides)
        places = tape.op("Add", self._moves(tape, passed, strides), first_taps)
        return self.on_image(tape, places) if self._overhangs(tape) else places

    def deliver(self, tape: Tape, dy: str, places: str) -> str:
        """Add each window's `dy` to the element of its plane at its position: `x`'s shape."""
        windows = tape.op("ReduceProd", self._sides(tape, self.y), keepdims=1)
        sizes = windows, self.plane(tape)
        rows = [tape.op("Concat", tape.ints(-1), size, axis=0) for size in sizes]
        index, dy = (tape.op("Reshape", each, rows[0]) for each in (places, dy))
        blank = tape.op("Reshape", tape.zeros(self.x), rows[1])
        dx = tape.scatter_add(blank, index, dy, like=self.x, axis=1)
        return tape.reshape(dx, like=self.x)

    def plane(self, tape: Tape) -> str:
        """Return the size of a plane of `x`."""
        return self._strides_of_planes(tape)[0]

    def met(self, tape: Tape) -> str | None:
        """Return which windows have a tap on the image; None if all do.

        With dilation, a small image may lie between two taps.
        """
        if all(d == 1 for d in self.dilations) or not any(self.before):
            return None
        met = list[str]()
        for axis in range(len(self.kernel)):
            first, last = self._reach(tape, axis)
            along = tape.ints(-1, *[1] * (len(self.kernel) - 1 - axis))
            met.append(tape.op("Reshape", tape.op("LessOrEqual", first, last), along))
        return reduce(lambda one, other: tape.op("And", one, other), met)

    def _overhangs(self, tape: Tape) -> bool:
        """Return whether a window may extend into padding."""
        sides, counts = tape.dims(self.x)[2:], tape.dims(self.y)[2:]
        geometry = zip(counts, self.strides, self.extents, self.before, sides, strict=True)
        return any(self.before) or not all(
            isinstance(n, int) and isinstance(i, int) and (n - 1) * s + e - b <= i
            for n, s, e, b, i in geometry
        )

    def on_image(self, tape: Tape, places: str) -> str:
        """Clamp positions to the range between each window's first and last tap on the image.

        Required for windows without a maximum: those of NaN select their first tap, those of -inf
        their last.
        """
        _, *strides = self._strides_of_planes(tape)
        reach = [self._reach(tape, axis) for axis in range(len(self.kernel))]
        first, last = (self._in_plane(tape, each, strides) for each in zip(*reach, strict=True))
        return tape.op("Min", tape.op("Max", places, first), last)

    def _reach(self, tape: Tape, axis: int) -> tuple[str, str]:
        """Return the position along an axis of each window's first and last tap on the image.

        If there is none, the first is after the last, which is on the image.
        """
        start, step = self._starts(tape, axis), tape.ints(self.dilations[axis])
        side = tape.side(self.x, 2 + axis)
        ahead = tape.op("Max", tape.op("Neg", start), tape.ints(0))
        skipped = tape.op("Div", tape.op("Add", ahead, tape.ints(self.dilations[axis] - 1)), step)
        room = tape.op("Div", tape.op("Sub", tape.op("Sub", side, tape.ints(1)), start), step)
        taken = tape.op("Min", room, tape.ints(self.kernel[axis] - 1))
        first, last = (tape.op("Add", start, tape.op("Mul", n, step)) for n in (skipped, taken))
        return first, tape.op("Max", last, tape.ints(0))

    def _strides_of_planes(self, tape: Tape) -> list[str]:
        """Return the size of a plane of `x`, then the stride of each axis within it."""
        strides = [tape.ints(1)]
        for axis in reversed(range(len(self.kernel))):
            side = tape.side(self.x, 2 + axis)
            strides.insert(0, tape.op("Mul", strides[0], side))
        return strides

    def _starts(self, tape: Tape, axis: int) -> str:
        """Return the position along an axis of `x` of each window's first tap."""
        start = tape.op("Mul", self._positions(tape, axis), tape.ints(self.strides[axis]))
        return tape.op("Sub", start, tape.ints(self.before[axis]))

    def _in_plane(self, tape: Tape, positions: Sequence[str], strides: Sequence[str]) -> str:
        """Combine positions along each axis to positions in a plane, for all windows; int32."""
        n, places = len(self.kernel), list[str]()
        for axis, (position, stride) in enumerate(zip(positions, strides, strict=True)):
            along = tape.ints(-1, *[1] * (n - 1 - axis))
            places.append(tape.op("Reshape", tape.op("Mul", position, stride), along))
        return tape.op("Cast", _total(tape, places), to=onnx.TensorProto.INT32)

    def _moves(self, tape: Tape, passed: Sequence[str], strides: Sequence[str]) -> str:
        """Return the offset of each window's selected tap from its first: a sum over taps."""
        back, inner, moves = tape.ints(0), 1, list[str]()
        for axis in reversed(range(len(self.kernel))):
            size, dilation = self.kernel[axis], self.dilations[axis]
            # Steps along this axis, which also return to the start of all later axes.
            steps = [i - 1 for i in range(inner, len(passed) + 1, inner) if i % (inner * size)]
            if steps:
                counts = [tape.op("Cast", passed[i], to=onnx.TensorProto.UINT8) for i in steps]
                count = tape.op("Cast", _total(tape, counts), to=onnx.TensorProto.INT32)
                length = tape.op("Sub", tape.op("Mul", strides[axis], tape.ints(dilation)), back)
                length = tape.op("Cast", length, to=onnx.TensorProto.INT32)
                by_one = dilation == 1 and axis + 1 == len(self.kernel)
                moves.append(count if by_one else tape.op("Mul", count, length))
            reach = tape.op("Mul", strides[axis], tape.ints((size - 1) * dilation))
            back, inner = tape.op("Add", back, reach), inner * size
        return _total(tape, moves)

    @property
    def _shifts(self) -> tuple[int, ...]:
        """Number of strides from the first tap to the last."""
        return tuple((e - 1) // s for e, s in zip(self.extents, self.strides, strict=True))

    def _spans(self, tape: Tape) -> str:
        """Return the lengths of the padded input, in whole strides, that contain all windows."""
        counts = tape.op("Add", self._sides(tape, self.y), tape.ints(*self._shifts))
        return tape.op("Mul", counts, tape.ints(*self.strides))

    @staticmethod
    def _sides(tape: Tape, name: str) -> str:
        """Return the lengths of a tensor's spatial axes."""
        sides = (tape.type(name).dims or (None, None, None))[2:]
        known = [side for side in sides if isinstance(side, int)]
        if len(known) == len(sides):
            return tape.ints(*known)
        return tape.op("Slice", tape.op("Shape", name), tape.ints(2), tape.ints(END))


def _total(tape: Tape, parts: Sequence[str]) -> str:
    return reduce(lambda one, other: tape.op("Add", one, other), parts)


def _require_starts_inside(
    x: Sequence[Dimension], y: Sequence[Dimension], strides: Sequence[int], before: Sequence[int]
) -> None:
    """Reject a last window in the padding, which ONNX's shapes include and ONNX Runtime omits."""
    for side, count, stride, pad in zip(x[2:], y[2:], strides, before, strict=True):
        known = isinstance(side, int) and isinstance(count, int)
        if known and (count - 1) * stride >= side + pad:  # type: ignore[operator]
            raise UnsupportedOperatorError(
                "ceil_mode with a window that starts in the padding is not supported"
            )


def _pads(tape: Tape, node: Node, strides: Sequence[int], extents: Sequence[int]) -> list[int]:
    """Return the padding before all axes, then after all axes."""
    mode = node.attribute("auto_pad", "NOTSET")
    if mode == "NOTSET":
        return list(node.attribute("pads", [0] * 2 * len(strides)))
    if mode == "VALID":
        return [0] * 2 * len(strides)
    if max(node.attribute("dilations", [1])) > 1:  # ONNX and ONNX Runtime disagree
        raise UnsupportedOperatorError(f"auto_pad {mode} with dilations is not supported")
    before, after = [], []
    for side, stride, extent in zip(tape.dims(node.input(0))[2:], strides, extents, strict=True):
        if stride > 1 and not isinstance(side, int):
            raise UnsupportedOperatorError(
                f"auto_pad {mode} with a dynamic image size is not supported"
            )
        size = side if isinstance(side, int) else 1
        total = max((-(-size // stride) - 1) * stride + extent - size, 0)
        before.append((total + (mode == "SAME_LOWER")) // 2)
        after.append(total - before[-1])
    return before + after

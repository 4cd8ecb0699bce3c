"""Operators that read an image between its pixels: GridSample, RoiAlign, DeformConv, AffineGrid.

None has a rule. Each is written out in plain operators, one lookup of pixels and one weighted sum,
and what differentiates those gives the gradient of the image and of the positions alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx

from ibisa_onnx.autodiff.node import Node
from ibisa_onnx.autodiff.registry import Rules
from ibisa_onnx.autodiff.tape import Tape
from ibisa_onnx.errors import UnsupportedOperatorError

rules = Rules()
_MOST_SAMPLES = 1 << 10  # along each side of a cell


@dataclass(frozen=True)
class _Taps:
    """Pixels along one axis, [..., count]: positions, weights, and the axis's length."""

    index: str
    weight: str
    side: str
    count: int


@rules.expand("GridSample")
def _grid_sample(tape: Tape, node: Node) -> Sequence[str]:
    x, grid, n = node.input(0), node.input(1), tape.rank(node.input(0)) - 2
    if tape.type(grid).elem != tape.type(x).elem:
        grid = tape.op("Cast", grid, to=tape.type(x).elem)
    aligned = bool(node.attribute("align_corners", 0))
    padding = node.attribute("padding_mode", "zeros") + ("-aligned" if aligned else "")
    columns = tape.ops("Split", n, grid, axis=-1, num_outputs=n)
    taps = []
    for axis, column in enumerate(reversed(columns)):
        side = tape.side(x, 2 + axis)
        at = tape.op("Reshape", column, tape.ints(0, -1))
        at = _in_pixels(tape, at, _real(tape, side, x), x, aligned)
        taps.append(_taps(tape, at, side, x, node.attribute("mode", "linear"), padding))
    batch = tape.op("Unsqueeze", tape.count_up(tape.side(x, 0)), tape.ints(1))
    values = _sample(tape, _rows(tape, x, 2 + n), batch, taps, rank=2)  # [N, points, C]
    values = tape.op("Transpose", values, perm=[0, 2, 1])
    outer = tape.op("Slice", tape.shape(x), tape.ints(0), tape.ints(2))
    inner = tape.op("Slice", tape.shape(grid), tape.ints(1), tape.ints(1 + n))
    return [tape.op("Reshape", values, tape.op("Concat", outer, inner, axis=0))]


@rules.expand("RoiAlign")
def _roi_align(tape: Tape, node: Node) -> Sequence[str]:
    """Mean of samples on a regular grid in each cell of each region."""
    x, regions, batch = node.inputs
    if node.attribute("mode", "avg") != "avg":
        raise UnsupportedOperatorError("mode max is not supported")
    if node.attribute("sampling_ratio", 0) <= 0:
        raise UnsupportedOperatorError(
            "sampling_ratio 0, which adapts to each region, is not supported"
        )
    if node.attribute("sampling_ratio") > _MOST_SAMPLES:
        raise UnsupportedOperatorError(f"sampling_ratio over {_MOST_SAMPLES} is not supported")
    if tape.type(regions).elem != tape.type(x).elem:
        regions = tape.op("Cast", regions, to=tape.type(x).elem)
    cells = [node.attribute("output_height", 1), node.attribute("output_width", 1)]
    left, top, right, bottom = tape.ops("Split", 4, regions, axis=1, num_outputs=4)
    rows, inside_rows = _regular(tape, node, 2, top, bottom, cells[0])
    columns, inside_columns = _regular(tape, node, 3, left, right, cells[1])
    # [regions, samples] of each axis: crossed.
    crossed = [_unsqueezed(tape, rows, 2), _unsqueezed(tape, columns, 1)]
    batch = tape.op("Unsqueeze", batch, tape.ints(1, 2))
    values = _sample(tape, _rows(tape, x, 4), batch, crossed, rank=3)
    inside = tape.op("Unsqueeze", inside_rows, tape.ints(2, 3))
    inside = tape.op("Mul", inside, tape.op("Unsqueeze", inside_columns, tape.ints(1, 3)))
    values = tape.op("Mul", values, inside)  # [regions, rows, columns, C]
    ratio = node.attribute("sampling_ratio")
    inner = tape.ints(0, cells[0], ratio, cells[1], ratio)
    split = tape.op("Concat", inner, tape.side(x, 1), axis=0)  # no -1: there may be no regions
    mean = tape.op("ReduceMean", tape.op("Reshape", values, split), tape.ints(2, 4), keepdims=0)
    return [tape.op("Transpose", mean, perm=[0, 3, 1, 2])]


def _unsqueezed(tape: Tape, taps: _Taps, axis: int) -> _Taps:
    index, weight = (tape.op("Unsqueeze", v, tape.ints(axis)) for v in (taps.index, taps.weight))
    return replace(taps, index=index, weight=weight)


def _regular(
    tape: Tape, node: Node, axis: int, start: str, end: str, cells: int
) -> tuple[_Taps, str]:
    """Return samples of each region, [R, cells * ratio], and 1 where they are not far outside."""
    x, count = node.input(0), cells * node.attribute("sampling_ratio")
    transformation = "half_pixel" if node.opset >= 16 else "output_half_pixel"
    half = node.attribute("coordinate_transformation_mode", transformation) == "half_pixel"
    scale = tape.scalar(node.attribute("spatial_scale", 1.0), x)
    offset = tape.scalar(0.5 if half else 0.0, x)
    first, last = (tape.op("Sub", tape.op("Mul", v, scale), offset) for v in (start, end))
    length = tape.op("Sub", last, first)
    if not half:
        length = tape.op("Max", length, tape.scalar(1.0, x))
    parts = tape.constant(((np.arange(count) + 0.5) / count).astype(tape.dtype(x)))
    at = tape.op("Add", first, tape.op("Mul", length, parts))
    side = tape.side(x, axis)
    above = tape.op("GreaterOrEqual", at, tape.scalar(-1.0, x))
    below = tape.op("LessOrEqual", at, _real(tape, side, x))
    inside = tape.op("Cast", tape.op("And", above, below), to=tape.type(x).elem)
    return _taps(tape, at, side, x, "linear", "border"), inside


@rules.expand("DeformConv")
def _deform_conv(tape: Tape, node: Node) -> Sequence[str]:
    """Sample the image for each tap of each window, then multiply by the kernel."""
    x, w, offset = node.inputs[:3]
    channels, kernel = tape.dims(x)[1], tape.dims(w)
    if not all(isinstance(side, int) for side in (channels, *kernel)) or len(kernel) != 4:
        raise UnsupportedOperatorError("its channels or kernel are unknown, or not two-dimensional")
    groups = node.attribute("offset_group", 1)
    taps = int(kernel[2]) * int(kernel[3])  # type: ignore[arg-type]
    spatial = tape.op("Slice", tape.shape(offset), tape.ints(2), tape.ints(4))
    shape = tape.op("Concat", tape.ints(0, groups, taps, 2), spatial, axis=0)
    moved = tape.ops("Split", 2, tape.op("Reshape", offset, shape), axis=3, num_outputs=2)
    found = []
    for axis in (0, 1):
        at = tape.op("Squeeze", moved[axis], tape.ints(3))
        at = tape.op("Add", at, _windows(tape, node, axis, spatial))
        found.append(_taps(tape, at, tape.side(x, 2 + axis), x, "linear", "zeros"))
    sides = tape.op("Slice", tape.shape(x), tape.ints(2), tape.ints(4))
    planes = tape.op("Concat", tape.ints(-1, int(channels) // groups), sides, axis=0)  # type: ignore[arg-type]
    images = tape.count_up(tape.op("Mul", tape.side(x, 0), tape.ints(groups)))
    images = tape.op("Reshape", images, tape.ints(-1, groups, 1, 1, 1))
    rows = _rows(tape, tape.op("Reshape", x, planes), rank=4)
    values = _sample(tape, rows, images, found, rank=5)  # [N, groups, taps, H, W, C / groups]
    if node.input(4):
        shape = tape.op("Concat", tape.ints(0, groups, taps), spatial, tape.ints(1), axis=0)
        values = tape.op("Mul", values, tape.op("Reshape", node.input(4), shape))
    return [_multiplied(tape, node, values, spatial)]


def _windows(tape: Tape, node: Node, axis: int, spatial: str) -> str:
    """Return the position of each tap without its offset; broadcasts to [taps, H, W]."""
    x, kernel = node.input(0), [int(side) for side in tape.dims(node.input(1))[2:]]  # type: ignore[arg-type]
    stride = node.attribute("strides", [1, 1])[axis]
    dilation = node.attribute("dilations", [1, 1])[axis]
    pad = node.attribute("pads", [0] * 4)[axis]
    tap = np.indices(kernel)[axis].reshape(-1, 1, 1) * dilation - pad
    count = tape.op("Slice", spatial, tape.ints(axis), tape.ints(axis + 1))
    starts = tape.op("Mul", tape.count_up(count), tape.ints(stride))
    starts = tape.op("Reshape", starts, tape.ints(-1, 1) if axis == 0 else tape.ints(1, -1))
    return _real(tape, tape.op("Add", starts, tap.astype(np.int64)), x)


def _multiplied(tape: Tape, node: Node, values: str, spatial: str) -> str:
    """[N, offset groups, taps, H, W, C / groups] times the kernel, group by group."""
    w, bias, group = node.input(1), node.input(3), node.attribute("group", 1)
    m, c, *kernel = (int(side) for side in tape.dims(w))  # type: ignore[arg-type]
    columns = tape.op("Transpose", values, perm=[0, 1, 5, 2, 3, 4])
    depth = c * int(np.prod(kernel))
    columns = tape.op("Reshape", columns, tape.ints(0, group, depth, -1))
    y = tape.op("MatMul", tape.op("Reshape", w, tape.ints(group, m // group, depth)), columns)
    y = tape.op("Reshape", y, tape.op("Concat", tape.ints(0, m), spatial, axis=0))
    return tape.op("Add", y, tape.op("Reshape", bias, tape.ints(-1, 1, 1))) if bias else y


@rules.expand("AffineGrid")
def _affine_grid(tape: Tape, node: Node) -> Sequence[str]:
    """Positions from -1 to 1, homogeneous, times the transpose of theta; the last axis first."""
    theta, size = node.inputs
    n = tape.dims(size)[0]
    if not isinstance(n, int):
        raise UnsupportedOperatorError("the number of its axes is unknown")
    n -= 2
    spatial = tape.op("Slice", size, tape.ints(2), tape.ints(2 + n))
    one = tape.op("Expand", tape.scalar(1.0, theta), spatial)
    columns = [_spaced(tape, node, spatial, axis, n) for axis in reversed(range(n))]
    columns = [tape.op("Mul", column, one) for column in columns]
    columns = [tape.op("Unsqueeze", column, tape.ints(n)) for column in [*columns, one]]
    points = tape.op("Reshape", tape.op("Concat", *columns, axis=n), tape.ints(-1, n + 1))
    grid = tape.op("MatMul", points, tape.op("Transpose", theta, perm=[0, 2, 1]))
    shape = tape.op("Concat", tape.ints(0), spatial, tape.ints(n), axis=0)
    return [tape.op("Reshape", grid, shape)]


def _spaced(tape: Tape, node: Node, spatial: str, axis: int, n: int) -> str:
    """Positions along an axis: its ends are -1 and 1, or half a step from them."""
    theta, aligned = node.input(0), bool(node.attribute("align_corners", 0))
    count = tape.op("Slice", spatial, tape.ints(axis), tape.ints(axis + 1))
    places, real = _real(tape, tape.count_up(count), theta), _real(tape, count, theta)
    two, one = tape.scalar(2.0, theta), tape.scalar(1.0, theta)
    if aligned:  # counted from the last, which ONNX Runtime puts at 1 even if it is the only one
        gaps = tape.op("Sub", real, one)
        back = tape.op("Div", tape.op("Sub", gaps, places), tape.op("Max", gaps, one))
        at = tape.op("Sub", one, tape.op("Mul", back, two))
    else:
        doubled = tape.op("Add", tape.op("Mul", places, two), one)
        at = tape.op("Sub", tape.op("Div", doubled, real), one)
    return tape.op("Reshape", at, tape.ints(-1, *[1] * (n - 1 - axis)))


# -- between pixels


def _in_pixels(tape: Tape, at: str, side: str, like: str, aligned: bool) -> str:
    """From -1 .. 1 to pixels; the ends are the outer pixels' centres (aligned) or borders."""
    one, half = tape.scalar(1.0, like), tape.scalar(0.5, like)
    shifted = tape.op("Add", at, one)
    if aligned:
        return tape.op("Mul", shifted, tape.op("Mul", tape.op("Sub", side, one), half))
    return tape.op("Mul", tape.op("Sub", tape.op("Mul", shifted, side), one), half)


def _taps(tape: Tape, at: str, side: str, like: str, mode: str, padding: str) -> _Taps:
    """Return the pixels that contribute to a value at `at`, along one axis."""
    last, real = tape.ints(-1), _real(tape, side, like)
    if mode == "nearest":
        first, base = 0, tape.op("Round", at)
        parts = [tape.op("Expand", tape.scalar(1.0, like), tape.op("Shape", at))]
    else:
        base = tape.op("Floor", at)
        fraction = tape.op("Sub", at, base)
        first = -1 if "cubic" in mode else 0
        parts = (_cubic if "cubic" in mode else _linear)(tape, fraction, like)
    weight = tape.op("Concat", *(tape.op("Unsqueeze", p, last) for p in parts), axis=-1)
    steps = np.arange(first, first + len(parts)).astype(tape.dtype(like))
    place = tape.op("Add", tape.op("Unsqueeze", base, last), steps)
    if padding.startswith("zeros"):
        above = tape.op("GreaterOrEqual", place, tape.scalar(0.0, like))
        inside = tape.op("And", above, tape.op("Less", place, real))
        weight = tape.op("Mul", weight, tape.op("Cast", inside, to=tape.type(like).elem))
    elif padding.startswith("reflection"):
        place = _reflected(tape, place, real, like, aligned=padding.endswith("aligned"))
    end = tape.op("Sub", real, tape.scalar(1.0, like))
    place = tape.op("Min", tape.op("Max", place, tape.scalar(0.0, like)), end)
    return _Taps(tape.op("Cast", place, to=onnx.TensorProto.INT64), weight, side, len(parts))


def _linear(tape: Tape, fraction: str, like: str) -> list[str]:
    return [tape.op("Sub", tape.scalar(1.0, like), fraction), fraction]


def _cubic(tape: Tape, fraction: str, like: str) -> list[str]:
    """Keys' kernel with a = -3/4, at the distances 1 + f, f, 1 - f and 2 - f."""
    one, two = tape.scalar(1.0, like), tape.scalar(2.0, like)
    near, far = (1.25, -2.25, 0.0, 1.0), (-0.75, 3.75, -6.0, 3.0)
    rest, beyond = (tape.op("Sub", whole, fraction) for whole in (one, two))
    return [
        _polynomial(tape, tape.op("Add", fraction, one), far, like),
        _polynomial(tape, fraction, near, like),
        _polynomial(tape, rest, near, like),
        _polynomial(tape, beyond, far, like),
    ]


def _polynomial(tape: Tape, t: str, coefficients: Sequence[float], like: str) -> str:
    first, *others = coefficients
    value: str = tape.scalar(first, like)
    for coefficient in others:
        value = tape.op("Add", tape.op("Mul", value, t), tape.scalar(coefficient, like))
    return value


def _reflected(tape: Tape, place: str, side: str, like: str, aligned: bool) -> str:
    """Mirror at the outer pixels' centres (aligned) or borders, repeatedly."""
    one, two = tape.scalar(1.0, like), tape.scalar(2.0, like)
    low = tape.scalar(0.0 if aligned else -0.5, like)
    span = tape.op("Sub", side, one) if aligned else side
    period = tape.op("Max", tape.op("Mul", span, two), one)
    into = tape.op("Mod", tape.op("Sub", place, low), period, fmod=1)
    into = tape.op("Mod", tape.op("Add", into, period), period, fmod=1)
    return tape.op("Add", low, tape.op("Min", into, tape.op("Sub", period, into)))


def _sample(tape: Tape, rows: str, image: str, taps: Sequence[_Taps], rank: int) -> str:
    """Weighted sums of pixels, [..., C]: `rank` axes that images and taps broadcast to, then C.

    `rows` are the pixels of all images, [images * sides, C].
    """
    behind, before, count = tape.ints(-1), tape.ints(-2), taps[0].count
    index, weight, pixels = taps[0].index, taps[0].weight, taps[0].side
    for tap in taps[1:]:
        count *= tap.count
        flat = tape.ints(*[0] * rank, count)  # no -1: there may be no positions
        index = tape.op("Mul", tape.op("Unsqueeze", index, behind), tap.side)
        index = tape.op("Add", index, tape.op("Unsqueeze", tap.index, before))
        pair = tape.op("Unsqueeze", weight, behind), tape.op("Unsqueeze", tap.weight, before)
        index, weight = (tape.op("Reshape", v, flat) for v in (index, tape.op("Mul", *pair)))
        pixels = tape.op("Mul", pixels, tap.side)
    first = tape.op("Unsqueeze", tape.op("Mul", image, pixels), behind)
    values = tape.op("Gather", rows, tape.op("Add", index, first), axis=0)
    weighted = tape.op("Mul", values, tape.op("Unsqueeze", weight, behind))
    return tape.op("ReduceSum", weighted, before, keepdims=0)


def _rows(tape: Tape, x: str, rank: int) -> str:
    """[N, C, *sides] -> [N * sides, C]."""
    turned = tape.op("Transpose", x, perm=[0, *range(2, rank), 1])
    channels = tape.op("Slice", tape.op("Shape", x), tape.ints(1), tape.ints(2))
    return tape.op("Reshape", turned, tape.op("Concat", tape.ints(-1), channels, axis=0))


def _real(tape: Tape, value: str, like: str) -> str:
    return tape.op("Cast", value, to=tape.type(like).elem)

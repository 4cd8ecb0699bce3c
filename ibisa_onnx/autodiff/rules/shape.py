"""Operators that only move elements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx

from ibisa_onnx.autodiff.inference import slice_range
from ibisa_onnx.autodiff.node import Node
from ibisa_onnx.autodiff.registry import Cotangents, Rules
from ibisa_onnx.autodiff.tape import END, Tape
from ibisa_onnx.errors import UnsupportedOperatorError

rules = Rules()


@rules.add("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def _reshape(tape: Tape, node: Node, dy: str) -> Cotangents:
    return [tape.reshape(dy, like=node.input(0))]


@rules.add("Transpose")
def _transpose(tape: Tape, node: Node, dy: str) -> Cotangents:
    rank = tape.rank(node.input(0))
    forward = node.attribute("perm", list(range(rank))[::-1])
    return [tape.op("Transpose", dy, perm=[int(axis) for axis in np.argsort(forward)])]


@rules.add("Expand")
def _expand(tape: Tape, node: Node, dy: str) -> Cotangents:
    return [tape.unbroadcast(dy, like=node.input(0), result=node.outputs[0])]


@rules.add("Tile")
def _tile(tape: Tape, node: Node, dy: str) -> Cotangents:
    """[r0 d0, r1 d1, ...] -> [r0, d0, r1, d1, ...], summed over the repeats."""
    x, zero = node.input(0), tape.ints(0)
    both = [tape.op("Unsqueeze", v, zero) for v in (node.input(1), tape.shape(x))]
    pairs = tape.op("Transpose", tape.op("Concat", *both, axis=0), perm=[1, 0])
    split = tape.op("Reshape", dy, tape.op("Reshape", pairs, tape.ints(-1)))
    return [tape.sum(split, range(0, 2 * tape.rank(x), 2))]


# -- joining and cutting


@rules.add("Concat")
def _concat(tape: Tape, node: Node, dy: str) -> Cotangents:
    axis = node.attribute("axis", 1)
    if len(node.inputs) == 1:
        return [dy]
    lengths = tape.op("Concat", *[tape.side(x, axis) for x in node.inputs], axis=0)
    parts = tape.ops("Split", len(node.inputs), dy, lengths, axis=axis)
    tape.vanishing.update(parts if dy in tape.vanishing else ())
    return parts


@rules.add("Split", several=True)
def _split(tape: Tape, node: Node, dys: Sequence[str | None]) -> Cotangents:
    parts = [dy or tape.zeros(y) for dy, y in zip(dys, node.outputs, strict=True)]
    return [tape.op("Concat", *parts, axis=node.attribute("axis", 0))]


@rules.add("Slice")
def _slice(tape: Tape, node: Node, dy: str) -> Cotangents:
    """Slice one axis after another; each slice is inverted separately."""
    x = node.input(0)
    starts, ends = _numbers(tape, node, "starts", 1), _numbers(tape, node, "ends", 2)
    if any(name and tape.value(name) is None for name in (node.input(3), node.input(4))):
        return [_unselected(tape, node, dy)]
    count = len(node.attribute("starts", ())) or _count(tape, node.input(1))
    axes = tape.option(node, "axes", 3) or list(range(count))
    steps = tape.option(node, "steps", 4) or [1] * count
    for i, (axis, step) in enumerate(zip(axes, steps, strict=True)):
        bounds = [tape.op("Slice", v, tape.ints(i), tape.ints(i + 1)) for v in (starts, ends)]
        known = tape.value(starts), tape.value(ends)
        side = tape.dims(x)[axis]
        if isinstance(side, int) and known[0] is not None and known[1] is not None:
            taken = slice_range(side, int(known[0][i]), int(known[1][i]), int(step))
            if not taken:
                return [tape.zeros(x)]
            positions = tape.ints(*taken)
        else:
            positions = _range(tape, x, axis)
            positions = tape.op("Slice", positions, *bounds, tape.ints(0), tape.ints(int(step)))
        dy = _put(tape, dy, positions, x, axis)
    return [dy]


def _numbers(tape: Tape, node: Node, name: str, index: int) -> str:
    if name in node.attributes:
        return tape.ints(*node.attributes[name])
    value = tape.value(node.input(index))
    if value is not None:
        return tape.ints(*np.atleast_1d(value).tolist())
    return tape.op("Cast", node.input(index), to=onnx.TensorProto.INT64)


# -- looking up


@rules.add("Gather")
def _gather(tape: Tape, node: Node, dy: str) -> Cotangents:
    x, indices, axis = node.input(0), node.input(1), node.attribute("axis", 0)
    axis %= tape.rank(x)
    rank = tape.rank(indices)
    if rank == 0:
        dy = tape.op("Unsqueeze", dy, tape.ints(axis))
    elif rank > 1:
        before = tape.op("Slice", tape.shape(x), tape.ints(0), tape.ints(axis))
        after = tape.op("Slice", tape.shape(x), tape.ints(axis + 1), tape.ints(END))
        dy = tape.op("Reshape", dy, tape.op("Concat", before, tape.ints(-1), after, axis=0))
    value, side = tape.value(indices), tape.dims(x)[axis]
    if value is not None and isinstance(side, int):
        positions = (value.reshape(-1) % side).tolist()
        if len(set(positions)) == len(positions):
            return [_put(tape, dy, tape.ints(*positions), x, axis)]
    return [_add_slices(tape, dy, tape.op("Reshape", indices, tape.ints(-1)), x, axis)]


@rules.add("GatherElements")
def _gather_elements(tape: Tape, node: Node, dy: str) -> Cotangents:
    x, indices, axis = node.input(0), node.input(1), node.attribute("axis", 0)
    return [tape.scatter_add(tape.zeros(x), indices, dy, like=x, axis=axis)]


@rules.add("GatherND")
def _gather_nd(tape: Tape, node: Node, dy: str) -> Cotangents:
    if node.attribute("batch_dims", 0):
        return [_unselected(tape, node, dy)]
    x = node.input(0)
    return [tape.scatter_add(tape.zeros(x), node.input(1), dy, like=x, op_type="ScatterND")]


@rules.add("Compress")
def _compress(tape: Tape, node: Node, dy: str) -> Cotangents:
    return [_unselected(tape, node, dy)]


@rules.add("ReverseSequence")
def _reverse_sequence(tape: Tape, node: Node, dy: str) -> Cotangents:
    """It is its own inverse."""
    return [tape.op("ReverseSequence", dy, node.input(1), **node.attributes)]


@rules.add("ScatterND", "ScatterElements", "Scatter")
def _scatter(tape: Tape, node: Node, dy: str) -> Cotangents:
    reduction = node.attribute("reduction", "none")
    if reduction == "mul":
        return _scattered_product(tape, node, dy)
    if reduction in ("max", "min"):
        return _scattered_extremum(tape, node, dy)
    kept = dy
    if reduction == "none":
        kept = _put_at(tape, node, dy, tape.zeros(node.input(2)), "none")
    return [kept, None, _taken_at(tape, node, dy)]


def _scattered_extremum(tape: Tape, node: Node, dy: str) -> Cotangents:
    """Equal fractions for all that attain the extremum, data and updates alike."""
    x, updates, y = node.input(0), node.input(2), node.outputs[0]
    elem = tape.type(x).elem
    hit = tape.op("Cast", tape.op("Equal", x, y), to=elem)
    hits = tape.op("Cast", tape.op("Equal", updates, _taken_at(tape, node, y)), to=elem)
    share = tape.op("Div", dy, _put_at(tape, node, hit, hits, "add"))
    return [tape.op("Mul", hit, share), None, tape.op("Mul", hits, _taken_at(tape, node, share))]


def _scattered_product(tape: Tape, node: Node, dy: str) -> Cotangents:
    """The product of all others: that of the non-zeros, if no other is 0."""
    x, updates = (_without_zeros(tape, factor) for factor in (node.input(0), node.input(2)))
    every = _put_at(tape, node, x[0], updates[0], "mul")
    whole, count = tape.op("Mul", dy, every), _put_at(tape, node, x[1], updates[1], "add")
    places = (whole, count), tuple(_taken_at(tape, node, v) for v in (whole, count))
    dxs = []
    for (product, zeros), (factor, own) in zip(places, (x, updates), strict=True):
        others, alone = tape.op("Div", product, factor), tape.op("Equal", zeros, own)
        dxs.append(tape.op("Where", alone, others, tape.scalar(0.0, node.input(0))))
    return [dxs[0], None, dxs[1]]


def _without_zeros(tape: Tape, x: str) -> tuple[str, str]:
    """The factors with 1 for each 0, and 1 where they were 0."""
    is_zero = tape.op("Equal", x, tape.scalar(0.0, x))
    safe = tape.op("Where", is_zero, tape.scalar(1.0, x), x)
    return safe, tape.op("Cast", is_zero, to=tape.type(x).elem)


def _put_at(tape: Tape, node: Node, data: str, updates: str, reduction: str) -> str:
    """Scatter other tensors to the same positions."""
    if node.op_type == "ScatterND":
        return tape.op("ScatterND", data, node.input(1), updates, reduction=reduction)
    axis = node.attribute("axis", 0)
    return tape.op("ScatterElements", data, node.input(1), updates, axis=axis, reduction=reduction)


def _taken_at(tape: Tape, node: Node, data: str) -> str:
    """Gather the values at the positions scattered to."""
    if node.op_type == "ScatterND":
        return tape.op("GatherND", data, node.input(1))
    return tape.op("GatherElements", data, node.input(1), axis=node.attribute("axis", 0))


@rules.expand("TensorScatter")
def _tensor_scatter(tape: Tape, node: Node) -> Sequence[str]:
    """Scatter to consecutive positions along an axis, with a start per element of the batch."""
    past, updates, rank = node.input(0), node.input(1), tape.rank(node.input(0))
    axis = node.attribute("axis", -2) % rank
    places = tape.count_up(tape.side(updates, axis))
    if node.input(2):
        starts = tape.op("Cast", node.input(2), to=onnx.TensorProto.INT64)
        places = tape.op("Add", places, tape.op("Unsqueeze", starts, tape.ints(1)))
    else:
        places = tape.op("Unsqueeze", places, tape.ints(0))
    if node.attribute("mode", "linear") == "circular":
        places = tape.op("Mod", places, tape.side(past, axis))
    between, behind = [1] * (axis - 1), [1] * (rank - 1 - axis)
    column = tape.op("Reshape", places, tape.ints(0, *between, -1, *behind))
    indices = tape.op("Expand", column, tape.shape(updates))
    return [tape.op("ScatterElements", past, indices, updates, axis=axis)]


@rules.add("TopK", several=True)
def _top_k(tape: Tape, node: Node, dys: Sequence[str | None]) -> Cotangents:
    axis, zeros = node.attribute("axis", -1), tape.zeros(node.input(0))
    return [tape.op("ScatterElements", zeros, node.outputs[1], dys[0], axis=axis)]


@rules.add("Range", inputs=(0, 2))
def _counted(tape: Tape, node: Node, dy: str) -> Cotangents:
    """start + i delta; the limit only determines the length."""
    start, _, delta = node.inputs
    elem = tape.type(start).elem
    if elem == onnx.TensorProto.BFLOAT16:
        raise UnsupportedOperatorError("ONNX Runtime does not support sums in bfloat16")
    steps = tape.op("Cast", tape.count_up(tape.op("Shape", dy)), to=elem)
    sums = [tape.op("ReduceSum", v, keepdims=0) for v in (dy, tape.op("Mul", dy, steps))]
    return [tape.reshape(sums[0], like=start), None, tape.reshape(sums[1], like=delta)]


@rules.add("Trilu")
def _trilu(tape: Tape, node: Node, dy: str) -> Cotangents:
    upper = node.attribute("upper", 1)
    return [tape.op("Trilu", dy, node.input(1) or None, upper=upper)]


# -- padding


@rules.add("Pad")
def _pad(tape: Tape, node: Node, dy: str) -> Cotangents:
    x, mode = node.input(0), node.attribute("mode", "constant")
    if mode == "constant":
        if "pads" in node.attributes:
            return [tape.op("Pad", dy, tape.ints(*(-pad for pad in node.attributes["pads"])))]
        return [tape.op("Pad", dy, tape.op("Neg", node.input(1)), None, node.input(3) or None)]
    computed = any(name and tape.value(name) is None for name in (node.input(1), node.input(3)))
    if computed and mode != "wrap":  # which the backward graph's opset does not have
        others = (node.input(1), None, node.input(3) or None)
        return [_unselected(tape, node, dy, others, mode=mode)]
    pads = tape.option(node, "pads", 1)
    axes = tape.option(node, "axes", 3) or range(len(pads) // 2)
    for axis, before, after in zip(axes, pads, pads[len(pads) // 2 :], strict=False):
        if before or after:
            dy = _add_slices(tape, dy, _reused(tape, x, axis, (before, after), mode), x, axis)
    return [dy]


def _reused(tape: Tape, x: str, axis: int, pads: tuple[int, int], mode: str) -> str:
    """Return the position of the axis that each position of the padded axis repeats."""
    if mode != "wrap":
        return tape.op("Pad", _range(tape, x, axis), tape.ints(*pads), mode=mode)
    if min(pads) < 0:
        raise UnsupportedOperatorError("mode wrap with negative pads is not supported")
    side = tape.op("Squeeze", tape.side(x, axis))
    first, after, one = (tape.constant(np.array(i, np.int64)) for i in (-pads[0], pads[1], 1))
    places = tape.op("Range", first, tape.op("Add", side, after), one)
    return tape.op("Mod", places, side)


# -- blocks of pixels and channels


@rules.add("DepthToSpace")
def _depth_to_space(tape: Tape, node: Node, dy: str) -> Cotangents:
    size = node.attribute("blocksize")
    blocks = tape.op("SpaceToDepth", dy, blocksize=size)
    if node.attribute("mode", "DCR") == "DCR":
        return [blocks]
    channels = tape.dims(node.input(0))[1]
    if not isinstance(channels, int):
        raise UnsupportedOperatorError("the number of channels is unknown")
    # SpaceToDepth orders its channels [block, channel], CRD [channel, block].
    order = np.arange(channels).reshape(size * size, -1).T
    return [tape.op("Gather", blocks, tape.ints(*order.reshape(-1).tolist()), axis=1)]


@rules.add("SpaceToDepth")
def _space_to_depth(tape: Tape, node: Node, dy: str) -> Cotangents:
    size, mode = node.attribute("blocksize"), node.attribute("mode", "DCR")
    return [tape.op("DepthToSpace", dy, blocksize=size, mode=mode)]


# -- shared


def _unselected(
    tape: Tape,
    node: Node,
    dy: str,
    others: Sequence[str | None] | None = None,
    **attributes: Any,
) -> str:
    """Transpose of any operator that only selects elements of its first input.

    It is applied to the elements' places, which says where each element of the result comes from;
    `others` are its other inputs, the node's own by default.
    """
    x, vector = node.input(0), tape.ints(-1)
    sides = tape.shape(x)
    size = tape.op("ReduceProd", sides, keepdims=0)
    places = tape.op("Reshape", tape.count_up(size), sides)
    attributes |= {"axis": node.attribute("axis"), "batch_dims": node.attribute("batch_dims")}
    others = node.inputs[1:] if others is None else others
    source = tape.op(node.op_type, places, *others, **attributes)
    blank = tape.op("Reshape", tape.zeros(x), vector)
    flat = [tape.op("Reshape", v, vector) for v in (source, dy)]
    return tape.reshape(tape.scatter_add(blank, *flat, like=x), like=x)


def _count(tape: Tape, vector: str) -> int:
    """Return the number of elements of a 1-D tensor."""
    (side,) = tape.dims(vector)
    if not isinstance(side, int):
        raise UnsupportedOperatorError("the number of its starts is unknown")
    return side


def _range(tape: Tape, x: str, axis: int) -> str:
    """Return the positions along an axis."""
    side = tape.dims(x)[axis]
    if isinstance(side, int):
        return tape.ints(*range(side))
    return tape.count_up(tape.side(x, axis))


def _put(tape: Tape, dy: str, positions: str, x: str, axis: int) -> str:
    """Put slices back at distinct positions of an axis of `x`, with zeros elsewhere."""
    rank, value, side = tape.rank(x), tape.value(positions), tape.dims(x)[axis]
    axis %= rank
    pads = np.zeros((2, rank), np.int64)
    if value is not None and isinstance(side, int) and _is_run(value):
        pads[:, axis] = value[0], side - 1 - value[-1]
        return tape.op("Pad", dy, pads.reshape(-1)) if pads.any() else dy
    # Gather every position from the slices, and positions without one from a slice of zeros.
    pads[1, axis] = 1
    count = tape.op("Shape", positions)
    blank = tape.op("Expand", count, tape.side(x, axis))
    order = tape.count_up(count)
    source = tape.op("ScatterElements", blank, positions, order)
    return tape.op("Gather", tape.op("Pad", dy, pads.reshape(-1)), source, axis=axis)


def _is_run(positions: np.ndarray[Any, Any]) -> bool:
    return positions.size > 0 and bool(np.all(np.diff(positions) == 1))


def _add_slices(tape: Tape, dy: str, positions: str, x: str, axis: int) -> str:
    """Add slices to positions, possibly repeated, of an axis of `x`."""
    rank = tape.rank(x)
    axis %= rank
    column = tape.op("Reshape", positions, tape.ints(-1, *[1] * (rank - 1 - axis)))
    indices = tape.op("Expand", column, tape.op("Shape", dy))
    sides = tape.op("Shape", dy)
    before = tape.op("Slice", sides, tape.ints(0), tape.ints(axis))
    after = tape.op("Slice", sides, tape.ints(axis + 1), tape.ints(END))
    shape = tape.op("Concat", before, tape.side(x, axis), after, axis=0)
    zeros = tape.op("Expand", tape.scalar(0.0, x), shape)
    return tape.scatter_add(zeros, indices, dy, like=x, axis=axis)

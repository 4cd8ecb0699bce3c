"""auto_pad SAME with a dynamic image size: the padding is computed at run time.

Such a node is written out as a Pad and the same node without padding, which then has a rule.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ibisa_onnx.autodiff.node import Node
from ibisa_onnx.autodiff.registry import Rules
from ibisa_onnx.autodiff.tape import Tape

rules = Rules()


@rules.expand("Conv", "MaxPool", "LpPool", "AveragePool")
def _same(tape: Tape, node: Node) -> Sequence[str] | None:
    if not _pads_at_run_time(tape, node):
        return None
    x, rest = node.input(0), node.inputs[1:]
    fill = -np.inf if node.op_type == "MaxPool" else 0.0
    pads = _pads(tape, node)
    padded = tape.op("Pad", x, pads, tape.scalar(fill, x))
    dropped = ("auto_pad", "pads", "storage_order", "count_include_pad")
    attributes = {k: v for k, v in node.attributes.items() if k not in dropped}
    y = tape.op(node.op_type, padded, *rest, **attributes)
    if node.op_type == "AveragePool" and not node.attribute("count_include_pad", 0):
        ones = tape.op("Expand", tape.scalar(1.0, x), tape.shape(x))
        inside = tape.op("Pad", ones, pads, tape.scalar(0.0, x))
        y = tape.op("Div", y, tape.op("AveragePool", inside, **attributes))
    return [y]


def _pads_at_run_time(tape: Tape, node: Node) -> bool:
    if node.attribute("auto_pad", "NOTSET") not in ("SAME_UPPER", "SAME_LOWER"):
        return False
    sides = tape.dims(node.input(0))[2:]
    strides = node.attribute("strides", [1] * len(sides))
    # With a stride of 1 the padding does not depend on the size; dilations are unsupported.
    opened = any(s > 1 and not isinstance(i, int) for i, s in zip(sides, strides, strict=True))
    return opened and max(node.attribute("dilations", [1])) == 1


def _pads(tape: Tape, node: Node) -> str:
    """One window per full or partial stride of the image, centred."""
    x, rank = node.input(0), tape.rank(node.input(0))
    kernel = node.attribute("kernel_shape")
    strides = tape.ints(*node.attribute("strides"))
    if kernel:
        extents = tape.ints(*kernel)
    else:
        extents = tape.op("Slice", tape.shape(node.input(1)), tape.ints(2), tape.ints(rank))
    sides = tape.op("Slice", tape.op("Shape", x), tape.ints(2), tape.ints(rank))
    whole = tape.op("Mul", tape.op("Div", tape.op("Sub", sides, tape.ints(1)), strides), strides)
    missing = tape.op("Sub", tape.op("Add", whole, extents), sides)
    total = tape.op("Max", missing, tape.ints(0))
    lower = int(node.attribute("auto_pad") == "SAME_LOWER")
    before = tape.op("Div", tape.op("Add", total, tape.ints(lower)), tape.ints(2))
    after = tape.op("Sub", total, before)
    return tape.op("Concat", tape.ints(0, 0), before, tape.ints(0, 0), after, axis=0)

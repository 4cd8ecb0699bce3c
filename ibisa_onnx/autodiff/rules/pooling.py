"""Pooling over windows and over whole images."""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate

import numpy as np
import onnx

from ibisa_onnx.autodiff.node import Node
from ibisa_onnx.autodiff.registry import Cotangents, Rules
from ibisa_onnx.autodiff.rules.activations import nonzero
from ibisa_onnx.autodiff.rules.reductions import extremum, share
from ibisa_onnx.autodiff.tape import Tape
from ibisa_onnx.autodiff.windows import Windows

rules = Rules()

_MOST_TAPS = 64
"""Larger windows are not compared tap by tap, to limit the size of the graph."""


@rules.add("GlobalAveragePool")
def _global_average_pool(tape: Tape, node: Node, dy: str) -> Cotangents:
    x = node.input(0)
    spatial = list(range(2, tape.rank(x)))
    return [tape.expand(share(tape, x, dy, spatial), x, given=(0, 1))]


@rules.add("GlobalMaxPool")
def _global_max_pool(tape: Tape, node: Node, dy: str) -> Cotangents:
    x = node.input(0)
    return [extremum(tape, x, node.outputs[0], dy, list(range(2, tape.rank(x))))]


@rules.add("MaxPool")
def _max_pool(tape: Tape, node: Node, dy: str) -> Cotangents:
    """The gradient goes to the first tap, in row-major order, that equals the maximum.

    The taps are compared one by one: MaxPool's own indices cost more than twice as much, and serve
    where the windows are large.
    """
    windows = Windows.read(tape, node, node.attribute("kernel_shape"))
    x, y = node.input(0), node.outputs[0]
    if (met := windows.met(tape)) is not None:
        dy = tape.masked(dy, met, y)
    rectified = _is_rectified(tape, x)
    if rectified:  # a window of zeros passes nothing on, so the ReLU's own mask can be left out
        dy = tape.masked(dy, nonzero(tape, y), y)
    if len(windows.offsets) == 1:
        dx = windows.spread(tape, dy)
    else:
        small = len(windows.offsets) <= _MOST_TAPS
        places = _compared(tape, windows) if small else _asked(tape, node, windows)
        dx = windows.deliver(tape, dy, places)
    tape.vanishing.update([dx] if rectified else [])
    return [dx]


def _is_rectified(tape: Tape, x: str) -> bool:
    """Return whether all of a tensor is the direct output of ReLUs."""
    producer = tape.graph.producers.get(x)
    if producer is not None and producer.op_type == "Concat":
        return all(_is_rectified(tape, part) for part in producer.inputs)
    return producer is not None and producer.op_type == "Relu"


def _compared(tape: Tape, windows: Windows) -> str:
    """Return the position of each maximum in its plane: taps are passed while they are smaller."""
    lowest = tape.constant(np.array(-np.inf, tape.dtype(windows.x)))
    taps = windows.taps(tape, windows.x, lowest)[:-1]
    below = [tape.op("Less", tap, windows.y) for tap in taps]
    passed = accumulate(below, lambda before, tap: tape.op("And", before, tap))
    return windows.places(tape, list(passed))


def _asked(tape: Tape, node: Node, windows: Windows) -> str:
    """Return the same from MaxPool's own indices, which count through all planes."""
    attributes = {k: v for k, v in node.attributes.items() if k != "storage_order"}
    _, indices = tape.ops("MaxPool", 2, windows.x, **attributes)
    places = tape.op("Mod", indices, windows.plane(tape))
    return windows.on_image(tape, tape.op("Cast", places, to=onnx.TensorProto.INT32))


@rules.add("AveragePool")
def _average_pool(tape: Tape, node: Node, dy: str) -> Cotangents:
    windows = Windows.read(tape, node, node.attribute("kernel_shape"))
    padded = bool(node.attribute("count_include_pad", 0))
    counts = windows.populations(tape, padded)
    return [windows.spread(tape, tape.op("Div", dy, counts))]


@rules.add("LpPool")
def _lp_pool(tape: Tape, node: Node, dy: str) -> Cotangents:
    windows = Windows.read(tape, node, node.attribute("kernel_shape"))
    return [_lp(tape, node, dy, lambda values: windows.spread(tape, values))]


@rules.add("GlobalLpPool")
def _global_lp_pool(tape: Tape, node: Node, dy: str) -> Cotangents:
    return [_lp(tape, node, dy, lambda values: values)]


def _lp(tape: Tape, node: Node, dy: str, spread: Callable[[str], str]) -> str:
    """y^p = sum |x|^p, so dx = sign(x) |x|^(p-1) times the windows' dy / y^(p-1)."""
    x, y, p = node.input(0), node.outputs[0], node.attribute("p", 2)
    zero, one = tape.scalar(0.0, x), tape.scalar(1.0, x)
    power = tape.scalar(p - 1.0, x)
    safe = tape.op("Where", tape.op("Equal", y, zero), one, y)
    shares = spread(tape.op("Div", dy, tape.op("Pow", safe, power)))
    size = tape.op("Pow", tape.op("Abs", x), power)
    return tape.op("Mul", tape.op("Mul", tape.op("Sign", x), size), shares)


@rules.add("MaxUnpool", inputs=(0,))
def _max_unpool(tape: Tape, node: Node, dy: str) -> Cotangents:
    """Each element was moved to one flat index of the output."""
    taken = tape.op("Gather", tape.op("Reshape", dy, tape.ints(-1)), node.input(1))
    return [taken]

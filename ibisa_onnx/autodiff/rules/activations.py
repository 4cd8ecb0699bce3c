"""Activations: functions of one tensor, differentiated through their output where that is cheaper.

Those that ONNX defines by other operators (Gelu, Mish, Celu, Swish, ...) need no rule here.
"""

from __future__ import annotations

import numpy as np
import onnx

from ibisa_onnx.autodiff.node import Node
from ibisa_onnx.autodiff.registry import Cotangents, Rules
from ibisa_onnx.autodiff.tape import Tape

rules = Rules()


@rules.add("Relu")
def _relu(tape: Tape, node: Node, dy: str) -> Cotangents:
    y = node.outputs[0]
    return [dy if dy in tape.vanishing else tape.masked(dy, nonzero(tape, y), y)]


@rules.add("Clip")
def _clip(tape: Tape, node: Node, dy: str) -> Cotangents:
    """Zero at and beyond the bounds; the bounds themselves get no gradient."""
    y = node.outputs[0]
    low, high = _bound(tape, node, "min", 1), _bound(tape, node, "max", 2)
    inside = []
    if low:
        zero = _is_zero(tape, low)
        inside.append(nonzero(tape, y) if zero else tape.op("Greater", y, low))
    if high:
        inside.append(tape.op("Less", y, high))
    if not inside:
        return [dy]
    return [tape.masked(dy, inside[0] if len(inside) == 1 else tape.op("And", *inside), y)]


def nonzero(tape: Tape, y: str) -> str:
    """Return where a non-negative tensor is positive; a cast is cheaper than Greater."""
    return tape.op("Cast", y, to=onnx.TensorProto.BOOL)


def _bound(tape: Tape, node: Node, name: str, index: int) -> str:
    if name in node.attributes:
        return tape.scalar(node.attributes[name], node.input(0))
    return node.input(index)


def _is_zero(tape: Tape, name: str) -> bool:
    value = tape.value(name)
    return value is not None and not np.any(value)


def _piecewise(tape: Tape, node: Node, below: str, above: str) -> Cotangents:
    """Select one gradient where the input is positive, another elsewhere."""
    positive = tape.op("Greater", node.input(0), tape.scalar(0.0, node.input(0)))
    return [tape.op("Where", positive, above, below)]


@rules.add("LeakyRelu")
def _leaky_relu(tape: Tape, node: Node, dy: str) -> Cotangents:
    slope = tape.scalar(node.attribute("alpha", 0.01), node.input(0))
    return _piecewise(tape, node, tape.op("Mul", dy, slope), dy)


@rules.add("PRelu")
def _prelu(tape: Tape, node: Node, dy: str) -> Cotangents:
    return _piecewise(tape, node, tape.op("Mul", dy, node.input(1)), dy)


@rules.add("Elu")
def _elu(tape: Tape, node: Node, dy: str) -> Cotangents:
    """Below zero y = alpha (exp(x) - 1), whose slope is y + alpha."""
    alpha = tape.scalar(node.attribute("alpha", 1.0), node.input(0))
    slope = tape.op("Add", node.outputs[0], alpha)
    return _piecewise(tape, node, tape.op("Mul", dy, slope), dy)


@rules.add("Selu")
def _selu(tape: Tape, node: Node, dy: str) -> Cotangents:
    """Below zero y = gamma alpha (exp(x) - 1), whose slope is y + gamma alpha."""
    x = node.input(0)
    alpha = node.attribute("alpha", 1.6732632423543772)
    gamma = node.attribute("gamma", 1.0507009873554805)
    slope = tape.op("Add", node.outputs[0], tape.scalar(alpha * gamma, x))
    above = tape.op("Mul", dy, tape.scalar(gamma, x))
    return _piecewise(tape, node, tape.op("Mul", dy, slope), above)


@rules.add("ThresholdedRelu")
def _thresholded_relu(tape: Tape, node: Node, dy: str) -> Cotangents:
    x = node.input(0)
    passed = tape.op("Greater", x, tape.scalar(node.attribute("alpha", 1.0), x))
    return [tape.op("Where", passed, dy, tape.scalar(0.0, x))]


@rules.add("Sigmoid")
def _sigmoid(tape: Tape, node: Node, dy: str) -> Cotangents:
    """y (1 - y)."""
    y = node.outputs[0]
    slope = tape.op("Sub", y, tape.op("Mul", y, y))
    return [tape.op("Mul", dy, slope)]


@rules.add("HardSigmoid")
def _hard_sigmoid(tape: Tape, node: Node, dy: str) -> Cotangents:
    """Slope alpha where 0 < y < 1, i.e. where y - y^2 is positive."""
    y = node.outputs[0]
    inside = tape.op("Sign", tape.op("Sub", y, tape.op("Mul", y, y)))
    slope = tape.op("Mul", inside, tape.scalar(node.attribute("alpha", 0.2), y))
    return [tape.op("Mul", dy, slope)]


@rules.add("HardSwish")
def _hard_swish(tape: Tape, node: Node, dy: str) -> Cotangents:
    """y = x h(x) with h = clip(x / 6 + 1/2, 0, 1), hence y' = h + [0 < h < 1] x / 6."""
    x = node.input(0)
    h = tape.op("HardSigmoid", x, alpha=1 / 6, beta=0.5)
    inside = tape.op("Sign", tape.op("Sub", h, tape.op("Mul", h, h)))
    # Where 0 < h < 1, x / 6 = h - 1/2.
    extra = tape.op("Mul", inside, tape.op("Sub", h, tape.scalar(0.5, x)))
    return [tape.op("Mul", dy, tape.op("Add", h, extra))]


@rules.add("Tanh")
def _tanh(tape: Tape, node: Node, dy: str) -> Cotangents:
    """1 - y^2."""
    y = node.outputs[0]
    slope = tape.op("Sub", tape.scalar(1.0, y), tape.op("Mul", y, y))
    return [tape.op("Mul", dy, slope)]


@rules.add("Softplus")
def _softplus(tape: Tape, node: Node, dy: str) -> Cotangents:
    return [tape.op("Mul", dy, tape.op("Sigmoid", node.input(0)))]


@rules.add("Softsign")
def _softsign(tape: Tape, node: Node, dy: str) -> Cotangents:
    """(1 - |y|)^2."""
    y = node.outputs[0]
    root = tape.op("Sub", tape.scalar(1.0, y), tape.op("Abs", y))
    return [tape.op("Mul", dy, tape.op("Mul", root, root))]


@rules.add("Softmax")
def _softmax(tape: Tape, node: Node, dy: str) -> Cotangents:
    """y (dy - sum(y dy)).

    A row of attention that is masked altogether is NaN, and models put a 0 in its place.
    """
    y = node.outputs[0]
    if dy in tape.guarded:
        y = tape.op("Where", tape.op("IsNaN", y), tape.scalar(0.0, y), y)
    total = tape.sum(tape.op("Mul", y, dy), (), _softmax_axes(tape, node))
    return [tape.op("Mul", y, tape.op("Sub", dy, total))]


@rules.add("LogSoftmax")
def _log_softmax(tape: Tape, node: Node, dy: str) -> Cotangents:
    """dy - exp(y) sum(dy)."""
    total = tape.sum(dy, (), _softmax_axes(tape, node))
    return [tape.op("Sub", dy, tape.op("Mul", tape.op("Exp", node.outputs[0]), total))]


def _softmax_axes(tape: Tape, node: Node) -> list[int]:
    """Before opset 13, all axes from `axis` on are normalised together."""
    if node.opset >= 13:
        return [node.attribute("axis", -1)]
    rank = tape.rank(node.input(0))
    axis = node.attribute("axis", 1)
    return list(range(axis + rank if axis < 0 else axis, rank))

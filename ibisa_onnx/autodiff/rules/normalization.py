"""Normalization layers. GroupNormalization, RMSNormalization and the like follow from their ONNX
definitions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from ibisa_onnx.autodiff.node import Node
from ibisa_onnx.autodiff.registry import Cotangents, Rules
from ibisa_onnx.autodiff.tape import Tape
from ibisa_onnx.autodiff.types import NARROW
from ibisa_onnx.errors import UnsupportedOperatorError

rules = Rules()


@rules.expand("BatchNormalization", "InstanceNormalization")
def _with_computed_parameters(tape: Tape, node: Node) -> Sequence[str] | None:
    """(x - mean) / sqrt(variance + epsilon) scale + bias, if more than x requires a gradient."""
    if not tape.active.intersection(node.inputs[1:]) or not _is_at_inference(node):
        return None
    x, rank = node.input(0), tape.rank(node.input(0))
    scale, bias = (_per_channel(tape, node.input(i), rank) for i in (1, 2))
    if node.op_type == "BatchNormalization":
        mean, variance = (_per_channel(tape, node.input(i), rank) for i in (3, 4))
        centred = tape.op("Sub", x, mean)
    else:
        spatial = tape.ints(*range(2, rank))
        centred = tape.op("Sub", x, tape.op("ReduceMean", x, spatial, keepdims=1))
        variance = tape.op("ReduceMean", tape.op("Mul", centred, centred), spatial, keepdims=1)
    epsilon = tape.scalar(node.attribute("epsilon", 1e-5), x)
    deviation = tape.op("Sqrt", tape.op("Add", variance, epsilon))
    standard = tape.op("Div", centred, deviation)
    return [tape.op("Add", tape.op("Mul", standard, scale), bias)]


def _is_at_inference(node: Node) -> bool:
    per_channel = node.opset >= 9 or bool(node.attribute("spatial", 1))
    return per_channel and not node.attribute("training_mode", 0)


@rules.expand("MeanVarianceNormalization")
def _mean_variance_normalization(tape: Tape, node: Node) -> Sequence[str] | None:
    """Half precision is computed in float32: ONNX's definition mixes the two."""
    x, axes = node.input(0), node.attribute("axes")
    if tape.type(x).elem not in NARROW:
        return None
    wide = tape.op("Cast", x, to=onnx.TensorProto.FLOAT)
    y = tape.op("MeanVarianceNormalization", wide, axes=axes)
    return [tape.op("Cast", y, to=tape.type(x).elem)]


@rules.add("BatchNormalization")
def _batch_normalization(tape: Tape, node: Node, dy: str) -> Cotangents:
    """At inference, a fixed affine map per channel."""
    if not _is_at_inference(node):
        raise UnsupportedOperatorError("training mode and spatial=0 are not supported")
    x, scale, variance = node.input(0), node.input(1), node.input(4)
    epsilon = tape.scalar(node.attribute("epsilon", 1e-5), variance)
    deviation = tape.op("Sqrt", tape.op("Add", variance, epsilon))
    elems = tape.type(x).elem, tape.type(scale).elem, tape.type(variance).elem
    if len(set(elems)) > 1:  # half precision may be normalised by float32 statistics
        scale, deviation = (tape.op("Cast", each, to=elems[0]) for each in (scale, deviation))
    factor = _per_channel(tape, tape.op("Div", scale, deviation), tape.rank(x))
    return [tape.op("Mul", dy, factor)]


def _per_channel(tape: Tape, vector: str, rank: int) -> str:
    """[C] -> [C, 1, ...], to broadcast against [N, C, ...]."""
    return tape.op("Reshape", vector, tape.ints(-1, *[1] * (rank - 2)))


@rules.add("InstanceNormalization")
def _instance_normalization(tape: Tape, node: Node, dy: str) -> Cotangents:
    x, rank = node.input(0), tape.rank(node.input(0))
    scaled = tape.op("Mul", dy, _per_channel(tape, node.input(1), rank))
    epsilon = node.attribute("epsilon", 1e-5)
    return [_standardisation(tape, x, scaled, range(2, rank), epsilon)]


@rules.add("LayerNormalization")
def _layer_normalization(tape: Tape, node: Node, dy: str) -> Cotangents:
    x, rank = node.input(0), tape.rank(node.input(0))
    axis = node.attribute("axis", -1)
    axes = range(axis % rank, rank)
    scaled = tape.op("Mul", dy, node.input(1))
    return [_standardisation(tape, x, scaled, axes, node.attribute("epsilon", 1e-5))]


def _standardisation(tape: Tape, x: str, g: str, axes: Sequence[int], epsilon: float) -> str:
    """With z = (x - mean) / sd: dx = (g - mean(g) - z mean(g z)) / sd.

    In float32 at least, as runtimes compute the operators themselves: in half precision squares of
    more than 255 are infinite, and an epsilon of 1e-12 is 0.
    """
    elem, along = tape.type(x).elem, tape.ints(*axes)
    narrow = elem in NARROW
    if narrow:
        x, g = (tape.op("Cast", each, to=onnx.TensorProto.FLOAT) for each in (x, g))
    tiny = tape.constant(np.array(epsilon, np.float32 if narrow else tape.dtype(x)))
    centred = tape.op("Sub", x, tape.op("ReduceMean", x, along, keepdims=1))
    variance = tape.op("ReduceMean", tape.op("Mul", centred, centred), along, keepdims=1)
    deviation = tape.op("Sqrt", tape.op("Add", variance, tiny))
    z = tape.op("Div", centred, deviation)
    mean = tape.op("ReduceMean", g, along, keepdims=1)
    slope = tape.op("ReduceMean", tape.op("Mul", g, z), along, keepdims=1)
    flat = tape.op("Sub", tape.op("Sub", g, mean), tape.op("Mul", z, slope))
    dx = tape.op("Div", flat, deviation)
    return tape.op("Cast", dx, to=elem) if narrow else dx


@rules.add("LpNormalization")
def _lp_normalization(tape: Tape, node: Node, dy: str) -> Cotangents:
    """y = x / |x|: dx = (dy - y' sum(y dy)) / |x|, y' = y (p = 2) or sign(x) (p = 1)."""
    x, y, p = node.input(0), node.outputs[0], node.attribute("p", 2)
    axis = tape.ints(node.attribute("axis", -1))
    norm = tape.op(f"ReduceL{p}", x, axis, keepdims=1)
    none = tape.op("Equal", norm, tape.scalar(0.0, x))
    norm = tape.op("Where", none, tape.scalar(np.inf, x), norm)  # zeros stay zeros
    total = tape.op("ReduceSum", tape.op("Mul", y, dy), axis, keepdims=1)
    direction = y if p == 2 else tape.op("Sign", x)
    return [tape.op("Div", tape.op("Sub", dy, tape.op("Mul", direction, total)), norm)]


@rules.add("LRN")
def _lrn(tape: Tape, node: Node, dy: str) -> Cotangents:
    """y = x s^-beta, s = bias + alpha/size sum(x^2 over a window of channels).

    dx = dy s^-beta - 2 alpha beta / size  x  sum(dy y / s over the mirrored window).
    """
    x, y, size = node.input(0), node.outputs[0], node.attribute("size")
    alpha, beta = node.attribute("alpha", 1e-4), node.attribute("beta", 0.75)
    squares = _window_sum(tape, tape.op("Mul", x, x), x, (size - 1) // 2, size)
    share = tape.op("Mul", squares, tape.scalar(alpha / size, x))
    s = tape.op("Add", share, tape.scalar(node.attribute("bias", 1.0), x))
    direct = tape.op("Mul", dy, tape.op("Pow", s, tape.scalar(-beta, x)))
    weighted = tape.op("Div", tape.op("Mul", dy, y), s)
    mirrored = _window_sum(tape, weighted, x, size // 2, size)
    factor = tape.scalar(2 * alpha * beta / size, x)
    return [tape.op("Sub", direct, tape.op("Mul", tape.op("Mul", x, factor), mirrored))]


def _window_sum(tape: Tape, values: str, like: str, before: int, size: int) -> str:
    """Sum over `size` neighbouring channels, `before` of them in front: pad, slice, add."""
    rest, zeros = size - 1 - before, [0] * (tape.rank(like) - 2)
    padded = tape.op("Pad", values, tape.ints(0, before, *zeros, 0, rest, *zeros))
    ends = [*range(1 - size, 0), np.iinfo(np.int64).max]
    cuts = [
        tape.op("Slice", padded, tape.ints(start), tape.ints(int(end)), tape.ints(1))
        for start, end in enumerate(ends)
    ]
    return tape.op("Sum", *cuts)

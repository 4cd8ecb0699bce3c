"""The float function that a quantised graph approximates: the same graph without rounding.

Rounding is piecewise constant, so its derivative is 0 almost everywhere and carries no information.
Quantisers are therefore treated as straight-through: the derivative is that of a float graph
without rounding, at that graph's own activations. The deployed graph is kept unchanged beside it.
Integers are replaced by the real numbers that would be rounded to them.

Saturation is treated as straight-through as well; otherwise a confident network, whose largest
logit or probability saturates, would have no gradient. There is one exception: a range that starts
at 0 after a sum of products represents a ReLU that the converter merged into the quantiser.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ibisa_onnx.autodiff.definitions import QUANTISED
from ibisa_onnx.autodiff.definitions.writer import Definition
from ibisa_onnx.autodiff.graph import Graph
from ibisa_onnx.autodiff.node import Node
from ibisa_onnx.autodiff.registry import is_flat
from ibisa_onnx.autodiff.types import FLOATS
from ibisa_onnx.errors import UnsupportedOperatorError

# Operators allowed on integers between quantisers: they are valid on real numbers, too.
_ON_INTEGERS = frozenset(
    {"Add", "Clip", "Concat", "DepthToSpace", "Expand", "Flatten", "Gather", "Identity", "Max"}
    | {"MaxPool", "Min", "Mul", "Pad", "Relu", "Reshape", "Resize", "Slice", "SpaceToDepth"}
    | {"Split", "Squeeze", "Sub", "Tile", "Transpose", "Unsqueeze", "Where"}
)
# Operators after which a ReLU may have been merged into the quantiser.
_SUMS = frozenset({"Add", "BatchNormalization", "Conv", "ConvTranspose", "Gemm", "MatMul", "Sum"})


@dataclass(frozen=True)
class DequantisedGraph:
    """A graph without rounding, with the input to differentiate with respect to.

    `refused` lists nodes without a counterpart, with the reason; `ends` lists nodes that stop the
    gradient if no path reaches the output; `reals` maps each deployed tensor that depends on the
    input to its counterpart.
    """

    graph: Graph
    input: str
    refused: tuple[tuple[Node, str], ...] = ()
    ends: tuple[Node, ...] = ()
    reals: Mapping[str, str] = field(default_factory=dict)


def dequantise(graph: Graph, input: str) -> DequantisedGraph:
    """Return the float counterpart of a graph; the graph itself if it has no integers on a path."""
    walk = _Walk(graph)
    walk.reals[input] = input
    if walk.is_integer(input):
        walk.reals[input] = walk.emit("Cast", input, to=TensorProto.FLOAT)
    for node in graph.nodes:
        walk.visit(node)
    output = walk.reals.get(graph.output)
    if output is None and (walk.nodes or walk.refused):
        return DequantisedGraph(graph, input, tuple(walk.refused), tuple(walk.ends))
    whole = graph.extended(walk.nodes, output) if output and walk.nodes else graph
    refused = tuple(walk.refused)
    return DequantisedGraph(whole, walk.reals[input], refused, reals=walk.reals)


@dataclass
class _Walk:
    """Visits the deployed nodes in order and writes those of the float graph.

    `reals` maps each tensor that depends on the input to its counterpart, which is the tensor
    itself before any quantiser. `quantised` maps quantised tensors to the quantiser's float input,
    scale and zero point.
    """

    graph: Graph
    reals: dict[str, str] = field(default_factory=dict)
    quantised: dict[str, tuple[str, str, str]] = field(default_factory=dict)
    makers: dict[str, str] = field(default_factory=dict)
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    refused: list[tuple[Node, str]] = field(default_factory=list)
    ends: list[Node] = field(default_factory=list)

    def emit(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        """Write a node of one output and return the output's name."""
        name = f"real/{op_type}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, inputs, [name], name=name, **attributes))
        return name

    def is_integer(self, name: str) -> bool:
        """Return whether a deployed tensor is known to be of integers."""
        return self.graph.type(name).elem not in (None, TensorProto.BOOL, *FLOATS)

    def visit(self, node: Node) -> None:
        """Write the counterpart of a node, if needed."""
        if self.reals.keys().isdisjoint(node.uses):
            return
        try:
            if not is_flat(node.op_type, node.domain) or node.op_type in _SPECIAL:
                self.write(node)
        except UnsupportedOperatorError as refusal:
            self.refused.append((node, str(refusal)))
            return
        if self.reals.keys().isdisjoint(node.outputs):
            self.ends.append(node)

    def write(self, node: Node) -> None:
        """Write a node's counterpart and note the counterparts of its outputs."""
        definition = QUANTISED.define(node)
        if definition is not None:
            definition.check(node, self.graph.type)
            _inline(self, node, definition)
        elif node.op_type in _SPECIAL:
            _SPECIAL[node.op_type](self, node)
        else:
            _copy(self, node)
        moved = self.makers.get(node.input(0)) if node.op_type == "Transpose" else None
        self.makers |= dict.fromkeys(node.outputs, moved or node.op_type)

    def real(self, name: str) -> str:
        """Return the counterpart of a tensor, itself for floats independent of the input."""
        if name not in self.reals:
            producer = self.graph.producers.get(name)
            if producer is not None and producer.op_type == "DequantizeLinear":
                _dequantize(self, producer)  # a weight: arithmetic is folded at load
            elif name and self.is_integer(name):
                return self.emit("Cast", name, to=TensorProto.FLOAT)
        return self.reals.get(name, name)


# -- quantisers


def _quantize(walk: _Walk, node: Node) -> None:
    _refuse_blocks(node)
    x, scale, zero = walk.real(node.input(0)), node.input(1), node.input(2)
    if _is_relu(walk, node):
        x = walk.emit("Relu", x)
    walk.quantised[node.outputs[0]] = (x, scale, zero)
    integers = walk.emit("Div", x, _along(walk, node, scale))
    if zero:
        integers = walk.emit("Add", integers, _along(walk, node, zero))
    walk.reals[node.outputs[0]] = integers


def _dequantize(walk: _Walk, node: Node) -> None:
    _refuse_blocks(node)
    x, scale, zero = node.input(0), node.input(1), node.input(2)
    before, *quantiser = walk.quantised.get(x, ("", "", ""))
    if before and all(_is_same(walk, *pair) for pair in zip(quantiser, (scale, zero), strict=True)):
        walk.reals[node.outputs[0]] = before
        return
    integers, factor = walk.real(x), _along(walk, node, scale)
    if walk.graph.type(scale).elem not in (None, TensorProto.FLOAT):
        integers = walk.emit("Cast", integers, to=walk.graph.type(scale).elem)
    if zero:
        integers = walk.emit("Sub", integers, _along(walk, node, zero))
    walk.reals[node.outputs[0]] = walk.emit("Mul", integers, factor)


def _dynamic_quantize(walk: _Walk, node: Node) -> None:
    """Treat the computed scale and zero point as constants."""
    x, (y, scale, zero) = walk.real(node.input(0)), node.outputs
    if walk.graph.output == scale:
        raise UnsupportedOperatorError("the gradient of its scale is not supported")
    walk.quantised[y] = (x, scale, zero)
    walk.reals[y] = walk.emit("Add", walk.emit("Div", x, scale), walk.real(zero))


def _cast(walk: _Walk, node: Node) -> None:
    """Drop casts between integers, and from integers to floats: they do not change values."""
    x, target = node.input(0), node.attribute("to")
    if not walk.is_integer(x):
        if target in FLOATS:
            _copy(walk, node)
    elif target in FLOATS and target != TensorProto.FLOAT:
        walk.reals[node.outputs[0]] = walk.emit("Cast", walk.real(x), to=target)
    elif target != TensorProto.BOOL:
        walk.reals[node.outputs[0]] = walk.real(x)


def _refuse_blocks(node: Node) -> None:
    if node.attribute("block_size", 0):
        raise UnsupportedOperatorError("block_size is not supported")


def _is_relu(walk: _Walk, node: Node) -> bool:
    """Return whether a quantiser's range starts at 0 and clips a sum of products there."""
    zero = node.input(2)
    lowest = walk.graph.value(zero) if zero else np.zeros(1, np.uint8)
    if lowest is None or lowest.dtype.kind not in "iu":
        return False
    return walk.makers.get(node.input(0)) in _SUMS and bool(
        np.all(lowest == np.iinfo(lowest.dtype).min)
    )


def _is_same(walk: _Walk, a: str, b: str) -> bool:
    if a == b:
        return True
    first, second = walk.graph.value(a), walk.graph.value(b)
    return first is not None and second is not None and np.array_equal(first, second)


def _along(walk: _Walk, node: Node, values: str) -> str:
    """Return a scale or zero point as floats, reshaped to broadcast along the node's axis."""
    graph, scale = walk.graph, node.input(1)
    dims, elem = graph.type(values).dims, graph.type(scale).elem or TensorProto.FLOAT
    if walk.is_integer(values):
        values = walk.emit("Cast", values, to=elem)
    if dims is None:
        raise UnsupportedOperatorError("the shape of its scale is unknown")
    if dims in ((), (1,)):
        return values
    axis, rank = node.attribute("axis", 1), graph.type(node.input(0)).dims
    behind = -1 - axis if axis < 0 else len(rank or ()) - 1 - axis
    if rank is None or behind == 0:
        return values
    shape = numpy_helper.from_array(np.array([-1, *[1] * behind], np.int64))
    return walk.emit("Reshape", values, walk.emit("Constant", value=shape))


_SPECIAL: dict[str, Callable[[_Walk, Node], None]] = {
    "QuantizeLinear": _quantize,
    "DequantizeLinear": _dequantize,
    "DynamicQuantizeLinear": _dynamic_quantize,
    "Cast": _cast,
}


# -- other operators


def _inline(walk: _Walk, node: Node, definition: Definition) -> None:
    """Write the definition of a quantised operator in place of the operator."""
    function = definition.function
    names = dict(zip(function.input, node.inputs, strict=True))
    results = zip(definition.outputs, function.output, strict=True)
    names |= {result: node.outputs[i] for i, result in results}
    for child in function.node:
        proto = onnx.NodeProto()
        proto.CopyFrom(child)
        inner = (name for name in child.output if name not in names)
        names |= {name: f"real/{node.outputs[0]}/{name}" for name in inner}
        proto.input[:] = [names[name] if name else "" for name in child.input]
        proto.output[:] = [names[name] for name in child.output]
        walk.write(Node.read(proto, walk.graph.opsets))


def _copy(walk: _Walk, node: Node) -> None:
    """Write the same operator on real numbers."""
    integers = {x for x in node.inputs if x in walk.reals and walk.is_integer(x)}
    deployed = walk.graph.producers.get(node.outputs[0]) is node
    untouched = deployed and all(walk.reals.get(x, x) == x for x in node.uses)
    counted = {y for y in node.outputs if walk.graph.type(y).elem not in (None, *FLOATS)}
    if not deployed:
        counted = set()  # part of a definition, which has no integers
    elif integers and counted:
        _require_exact(walk, node, integers)
        counted = set()
    if untouched:
        walk.reals |= {y: y for y in node.outputs if y and y not in counted}
        return
    if node.captured:
        raise UnsupportedOperatorError("control flow on quantised tensors is not supported")
    proto = onnx.NodeProto()
    proto.CopyFrom(node.proto)
    proto.name = f"real/{node.op_type}_{len(walk.nodes)}"
    outputs = {y: f"{proto.name}_{i}" for i, y in enumerate(node.outputs) if y}
    proto.input[:] = _operands(walk, node, integers)
    proto.output[:] = [outputs.get(y, "") for y in node.outputs]
    walk.nodes.append(proto)
    # Counts and comparisons are read from the deployed graph.
    walk.reals |= {y: counterpart for y, counterpart in outputs.items() if y not in counted}


def _require_exact(walk: _Walk, node: Node, integers: set[str]) -> None:
    """Reject operators that round or wrap integers, and integers that may be indices."""
    long = any(walk.graph.type(x).elem == TensorProto.INT64 for x in integers)
    if long or node.op_type not in _ON_INTEGERS:
        raise UnsupportedOperatorError("its integer arithmetic is not differentiable")


def _operands(walk: _Walk, node: Node, integers: set[str]) -> list[str]:
    """Return the counterparts of inputs; constants of the same integer type become floats."""
    elems = {walk.graph.type(x).elem for x in integers}
    return [
        walk.real(x) if not walk.is_integer(x) or walk.graph.type(x).elem in elems else x
        for x in node.inputs
    ]

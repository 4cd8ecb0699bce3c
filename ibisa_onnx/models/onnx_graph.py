"""Queries on ONNX graphs: which node produces a tensor, what only passes it on, where to cut."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ibisa_onnx.errors import ModelError
from ibisa_onnx.models.model_parts import parts

if TYPE_CHECKING:
    import onnx

TRANSPARENT = frozenset(
    {"Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Cast", "Transpose", "Dropout"}
    | {"QuantizeLinear", "DequantizeLinear"}
)
"""Operators that pass values on, in another shape, order or dtype."""

_SMALL = 64  # values; scales, axes and shapes have no more


def producers(graph: onnx.GraphProto) -> dict[str, onnx.NodeProto]:
    """Return the node that produces each tensor, by the tensor's name."""
    return {output: node for node in graph.node for output in node.output}


def producer_of(
    name: str, graph: onnx.GraphProto, transparent: frozenset[str] = TRANSPARENT
) -> onnx.NodeProto | None:
    """Return the node that produces a tensor, skipping nodes that only pass it on."""
    makers = producers(graph)
    return makers.get(origin(name, makers, transparent))


def origin(
    name: str,
    makers: Mapping[str, onnx.NodeProto],
    transparent: frozenset[str] = TRANSPARENT,
) -> str:
    """Return the tensor whose values are passed on as this one."""
    while name in makers and makers[name].op_type in transparent and makers[name].input:
        name = makers[name].input[0]
    return name


_TO_PROBABILITIES = frozenset({"Softmax", "LogSoftmax", "Sigmoid", "HardSigmoid"})
_MIXING = frozenset(
    {"Log", "Add", "Sub", "Sum", "Mean", "Mul", "Div", "Min", "Max", "Clip", "Pow", "Concat"}
    | {"Slice", "Split", "Gather", "ReduceMean", "ReduceSum", "ReduceMax"}
)
"""Operators whose results are still recognisable as functions of probabilities."""


def logits_of(output: str, graph: onnx.GraphProto) -> str:
    """Return the input of the softmax or sigmoid that produces an output.

    Returns the output itself if no softmax or sigmoid produces it.

    Raises
    ------
    ModelError
        The output combines probabilities with other values, so that no single tensor has its
        logits.
    """
    maker = producer_of(output, graph, TRANSPARENT | {"Log"})
    if maker is not None and maker.op_type in _TO_PROBABILITIES:
        return str(maker.input[0])
    hidden = _probabilities_in(output, graph)
    if hidden is not None:
        raise ModelError(
            f"no single tensor has the logits of {output!r}: it is computed from the output of "
            f"{hidden.op_type} {hidden.output[0]!r}; select the tensor with output="
        )
    return output


def _probabilities_in(output: str, graph: onnx.GraphProto) -> onnx.NodeProto | None:
    """Return a node whose probabilities an output is a simple function of, or None."""
    makers = producers(graph)
    open_, seen = [output], set[str]()
    while open_:
        name = open_.pop()
        node = makers.get(name)
        if node is None or name in seen:
            continue
        seen.add(name)
        if node.op_type == "Exp" or node.op_type.endswith(("Softmax", "Sigmoid")):
            return node
        gate = node.op_type == "Mul" and makers.keys() >= set(node.input)  # x times sigmoid
        if node.op_type in TRANSPARENT | _MIXING and not gate:
            open_.extend(node.input)
    return None


def cut(graph: onnx.GraphProto, tensor: onnx.ValueInfoProto) -> None:
    """Turn an inner tensor into a graph input, in place; its producer's output is renamed."""
    for node in graph.node:
        for place, name in enumerate(node.output):
            if name == tensor.name:
                node.output[place] = f"{name}/cut"
    graph.input.append(tensor)


def drop_unread_inputs(model: onnx.ModelProto) -> None:
    """Remove the inputs of a graph that neither a node nor an output reads, in place."""
    read = {each.name for each in model.graph.output}
    read |= {name for body in parts(model).bodies for node in body.node for name in node.input}
    kept = [each for each in model.graph.input if each.name in read]
    del model.graph.input[:]
    model.graph.input.extend(kept)


def without_weights(graph: onnx.GraphProto) -> onnx.GraphProto:
    """Return a copy of a graph's nodes, outputs and small initializers."""
    from onnx import GraphProto

    copy = GraphProto(node=graph.node, output=graph.output)
    copy.initializer.extend(each for each in graph.initializer if math.prod(each.dims) <= _SMALL)
    return copy

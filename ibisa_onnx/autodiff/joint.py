"""The public door: a model and its gradient in one graph, for a single run.

It is put together from the two graphs that `differentiate` gives. They share the weights, and what
the one would hand to the other stays inside.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from itertools import count

import onnx
from onnx import helper

from ibisa_onnx.autodiff.driver import Derivative, differentiate
from ibisa_onnx.autodiff.graph import Graph
from ibisa_onnx.autodiff.node import inner_graphs, opsets_of
from ibisa_onnx.autodiff.types import FLOATS, OPSET, read_type
from ibisa_onnx.autodiff.upgrade import Upgrade
from ibisa_onnx.errors import ModelError
from ibisa_onnx.models.onnx_file import ModelFile

_IR_VERSION = 8
COTANGENT, GRADIENT = "cotangent", "gradient"


def backward_graph(
    model: onnx.ModelProto | str | os.PathLike[str] | bytes,
    *,
    input: str | None = None,
    output: str | None = None,
) -> onnx.ModelProto:
    """Build the graph that computes a model's output and its gradient in one run.

    Parameters
    ----------
    model
        A model of opset 7 or later: its path, its bytes or itself. It is left as it is.
    input
        What to differentiate with respect to; None: the only floating-point input, or the only one.
    output
        What to differentiate, any tensor of the model; None: the first output.

    Returns
    -------
    onnx.ModelProto
        Its inputs are the model's own and `cotangent`, dL/d output in the output's shape and dtype.
        Its outputs are the output and `gradient`, dL/d input in the input's shape and dtype. Both
        are float32 where output or input are integers, which count as real numbers. Where the
        model has tensors of these names, they get a `_` at the end. Weights are in it once; those
        in external files stay there, by the names that the model gave.

    Raises
    ------
    UnsupportedOperatorError
        If an operator on the path has no rule, or no gradient reaches the input.
    ModelError
        If the file cannot be read, or there is no such input or output, or several.
    """
    return join(derivative_of(model, input, output))


def derivative_of(
    model: onnx.ModelProto | str | os.PathLike[str] | bytes,
    input: str | None = None,
    output: str | None = None,
) -> Derivative:
    """Differentiate a model of any origin; see `backward_graph` for the parameters."""
    proto = model if isinstance(model, onnx.ModelProto) else read_model(ModelFile.of(model))
    input = _only_input(proto) if input is None else input
    output = _first_output(proto) if output is None else output
    return differentiate(proto, input, output)


def join(derivative: Derivative) -> onnx.ModelProto:
    """Put a forward graph and its backward graph together."""
    forward, backward = derivative.forward, derivative.backward
    taken = _tensors(forward.graph)
    names = {
        derivative.cotangent: _free(COTANGENT, taken),
        derivative.gradient: _free(GRADIENT, taken),
    }
    opset = max(opsets_of(forward.opset_import).get("", 1), OPSET)
    numbers = count()

    def fresh(hint: str) -> str:
        return _free(f"upgraded/{hint}_{next(numbers)}", taken)

    joint = _empty_like(forward, opset)
    body = joint.graph
    body.node.extend(_at_opset(forward, derivative.output, opset, fresh))
    nodes = _at_opset(backward, derivative.gradient, opset, fresh)
    body.node.extend(_renamed(node, names) for node in nodes)
    body.initializer.extend(forward.graph.initializer)
    body.initializer.extend(t for t in backward.graph.initializer if t.name not in taken)
    cotangent, gradient = backward.graph.input[0], backward.graph.output[0]
    body.input.extend([*forward.graph.input, _called(names[cotangent.name], cotangent)])
    body.output.extend([forward.graph.output[0], _called(names[gradient.name], gradient)])
    return joint


def read_model(file: ModelFile) -> onnx.ModelProto:
    """Parse a file; ModelError where it holds no ONNX model."""
    file.check_readable()
    proto = file.load_proto()
    if proto is None or not proto.graph.node:
        raise ModelError(f"{file.label} is not an ONNX model, or it is truncated; copy it again")
    return proto


def _only_input(model: onnx.ModelProto) -> str:
    """The input to differentiate with respect to, where there is no choice: floats go first."""
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [each for each in model.graph.input if each.name not in constants]
    floats = [each for each in inputs if read_type(each).elem in FLOATS]
    names = [str(each.name) for each in floats or inputs]
    if not names:
        raise ModelError("the model has no input")
    if len(names) > 1:
        raise ModelError(f"the model has several inputs; choose one of: {', '.join(names)}")
    return names[0]


def _first_output(model: onnx.ModelProto) -> str:
    if not model.graph.output:
        raise ModelError("the model has no output")
    return str(model.graph.output[0].name)


def _tensors(graph: onnx.GraphProto) -> set[str]:
    """The names of all tensors of a graph, and of the graphs inside its nodes."""
    names = {name for node in graph.node for name in (*node.input, *node.output)}
    names |= {each.name for each in (*graph.input, *graph.initializer)}
    return names.union(*map(_tensors, inner_graphs(graph.node)))


def _free(name: str, taken: set[str]) -> str:
    """The name, with `_` at its end until it is not taken; then it is."""
    while name in taken:
        name += "_"
    taken.add(name)
    return name


def _at_opset(
    model: onnx.ModelProto, output: str, opset: int, fresh: Callable[[str], str]
) -> Iterable[onnx.NodeProto]:
    """The nodes of a model, written in an opset that is not older than its own."""
    if opsets_of(model.opset_import).get("", 1) == opset:
        nodes: Iterable[onnx.NodeProto] = model.graph.node
        return nodes
    return Upgrade(Graph(model, output), opset, fresh).nodes(model.graph.node)


def _empty_like(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """A model of no nodes, of another opset."""
    empty = onnx.ModelProto(
        ir_version=max(model.ir_version, _IR_VERSION), producer_name=model.producer_name
    )
    empty.metadata_props.extend(model.metadata_props)
    empty.opset_import.append(helper.make_opsetid("", opset))
    others = (each for each in model.opset_import if each.domain not in ("", "ai.onnx"))
    empty.opset_import.extend(others)
    empty.graph.name = model.graph.name
    return empty


def _renamed(node: onnx.NodeProto, names: Mapping[str, str]) -> onnx.NodeProto:
    """The node with some tensors called otherwise."""
    if not names.keys() & {*node.input, *node.output}:
        return node
    renamed = onnx.NodeProto()
    renamed.CopyFrom(node)
    renamed.input[:] = [names.get(name, name) for name in node.input]
    renamed.output[:] = [names.get(name, name) for name in node.output]
    return renamed


def _called(name: str, info: onnx.ValueInfoProto) -> onnx.ValueInfoProto:
    """The same type under another name."""
    renamed = onnx.ValueInfoProto()
    renamed.CopyFrom(info)
    renamed.name = name
    return renamed

"""A model and its gradient in one graph, for a single run.

It joins the two graphs that `differentiate` returns. They share weights, and saved activations
become inner tensors.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from itertools import count
from types import NoneType

import onnx
from onnx import helper

from ibisa_onnx.autodiff.driver import Derivative, differentiate
from ibisa_onnx.autodiff.graph import Graph
from ibisa_onnx.autodiff.node import inner_graphs, opsets_of
from ibisa_onnx.autodiff.types import FLOATS, OPSET, read_type
from ibisa_onnx.autodiff.upgrade import Upgrade
from ibisa_onnx.checks import check_type
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
    """Build a model that computes a model's output and its gradient in one run.

    Parameters
    ----------
    model
        Path, bytes or `ModelProto` of a model of opset 7 or later. It is not modified.
    input
        Name of the input with respect to which to differentiate. Default: the only floating-point
        input, or the only input.
    output
        Name of the tensor to differentiate, inner tensors included. Default: the first output.

    Returns
    -------
    onnx.ModelProto
        Model with the original inputs and `cotangent`, dL/d output in the shape and dtype of the
        output. It returns the output and `gradient`, dL/d input in the shape and dtype of the
        input. `cotangent` and `gradient` are float32 if the output or the input is an integer
        type, and get a trailing `_` if the model already has tensors of these names. Weights are
        stored once; external weights remain external, under the file names in the model.

    Raises
    ------
    UnsupportedOperatorError
        An operator on the path has no gradient rule, or no gradient reaches the input.
    ModelError
        The file cannot be read, there is no such input or output, or the choice is ambiguous.
    GradientError
        The graph is malformed and cannot be analysed.
    """
    return join(derivative_of(model, input, output))


def derivative_of(
    model: onnx.ModelProto | str | os.PathLike[str] | bytes,
    input: str | None = None,
    output: str | None = None,
) -> Derivative:
    """Differentiate a model given by path, bytes or proto; parameters as for `backward_graph`."""
    proto = model if isinstance(model, onnx.ModelProto) else read_model(ModelFile.of(model))
    for name, given in (("input", input), ("output", output)):
        check_type(name, given, (str, NoneType), "a name")
    input = _only_input(proto) if input is None else input
    output = _first_output(proto) if output is None else output
    return differentiate(proto, input, output)


def join(derivative: Derivative) -> onnx.ModelProto:
    """Join a forward graph and its backward graph."""
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
    """Parse a file; ModelError if it is not an ONNX model."""
    file.check_readable()
    proto = file.load_proto()
    if proto is None or not proto.graph.node:
        raise file.not_a_model()
    return proto


def _only_input(model: onnx.ModelProto) -> str:
    """Return the default input: the only floating-point one, or the only one."""
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
    """Return the names of all tensors of a graph and its subgraphs."""
    names = {name for node in graph.node for name in (*node.input, *node.output)}
    names |= {each.name for each in (*graph.input, *graph.initializer)}
    return names.union(*map(_tensors, inner_graphs(graph.node)))


def _free(name: str, taken: set[str]) -> str:
    """Return the name, with trailing `_` until it is unique, and reserve it."""
    while name in taken:
        name += "_"
    taken.add(name)
    return name


def _at_opset(
    model: onnx.ModelProto, output: str, opset: int, fresh: Callable[[str], str]
) -> Iterable[onnx.NodeProto]:
    """Return the nodes of a model, converted to an opset that is at least its own."""
    if opsets_of(model.opset_import).get("", 1) == opset:
        nodes: Iterable[onnx.NodeProto] = model.graph.node
        return nodes
    return Upgrade(Graph(model, output), opset, fresh).nodes(model.graph.node)


def _empty_like(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """Return a copy of a model without nodes, at another opset."""
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
    """Return the node with some tensors renamed."""
    if not names.keys() & {*node.input, *node.output}:
        return node
    renamed = onnx.NodeProto()
    renamed.CopyFrom(node)
    renamed.input[:] = [names.get(name, name) for name in node.input]
    renamed.output[:] = [names.get(name, name) for name in node.output]
    return renamed


def _called(name: str, info: onnx.ValueInfoProto) -> onnx.ValueInfoProto:
    """Return the same type under another name."""
    renamed = onnx.ValueInfoProto()
    renamed.CopyFrom(info)
    renamed.name = name
    return renamed

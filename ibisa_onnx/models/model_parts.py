"""Iterates over all graphs and tensors of a model's protobuf.

Nodes occur in the main graph, in subgraphs of nodes, in model-local functions and in training
info; tensors occur beside them and in node attributes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

    Body = onnx.GraphProto | onnx.FunctionProto


@dataclass(frozen=True)
class Parts:
    """All bodies with nodes in a model, and all tensors.

    Attributes
    ----------
    bodies
        The graph, functions, and subgraphs of both.
    tensors
        Initializers and constants; for sparse ones, values and indices.
    """

    bodies: list[Body]
    tensors: list[onnx.TensorProto]


def parts(model: onnx.ModelProto) -> Parts:
    """Return all parts of a model."""
    graphs: list[onnx.GraphProto] = [model.graph]
    for training in model.training_info:
        graphs += [training.initialization, training.algorithm]
    found: list[onnx.TensorProto] = []
    for function in model.functions:
        graphs += _read_attributes(function.attribute_proto, found)
        graphs += _read_nodes(function, found)
    for graph in graphs:  # grows during the loop
        found += graph.initializer
        found += _dense(graph.sparse_initializer)
        graphs += _read_nodes(graph, found)
    return Parts([*graphs, *model.functions], found)


def tensors(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    """Return all tensors of a model: initializers and constants, dense and sparse."""
    return parts(model).tensors


def graphs_in(body: Body) -> list[onnx.GraphProto]:
    """Return the direct subgraphs of a body's nodes (If, Loop, Scan)."""
    return _read_nodes(body, [])


def _read_nodes(body: Body, found: list[onnx.TensorProto]) -> list[onnx.GraphProto]:
    """Collect the tensors of a body's nodes in `found`; return the subgraphs."""
    graphs: list[onnx.GraphProto] = []
    for node in body.node:
        if node.attribute:
            graphs += _read_attributes(node.attribute, found)
    return graphs


def _read_attributes(
    attributes: Iterable[onnx.AttributeProto], found: list[onnx.TensorProto]
) -> list[onnx.GraphProto]:
    """Collect the tensors of attributes of any type in `found`; return the subgraphs."""
    graphs: list[onnx.GraphProto] = []
    for attribute in attributes:
        if attribute.HasField("t"):
            found.append(attribute.t)
        if attribute.HasField("g"):
            graphs.append(attribute.g)
        if attribute.HasField("sparse_tensor"):
            found += _dense([attribute.sparse_tensor])
        found += attribute.tensors
        graphs += attribute.graphs
        if attribute.sparse_tensors:
            found += _dense(attribute.sparse_tensors)
    return graphs


def _dense(sparse: Iterable[onnx.SparseTensorProto]) -> Iterator[onnx.TensorProto]:
    """Yield values and indices of sparse tensors."""
    for tensor in sparse:
        yield tensor.values
        yield tensor.indices

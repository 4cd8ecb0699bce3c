"""A graph and its weights, held apart: the graph is kilobytes, the weights are megabytes.

ONNX Runtime takes weights as values too. So graphs that are made from a model need not carry them
along, and several sessions share them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, numpy_helper

from ibisa_onnx.models.external_data import GIVEN

Weights = dict[str, npt.NDArray[Any]]

# Smaller tensors are shapes, axes and scalars, by which ONNX Runtime optimises.
_SMALLEST = 1024
_TYPES = frozenset(
    {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.INT8}
    | {TensorProto.UINT8, TensorProto.INT32, TensorProto.INT64}
)


def take_weights(model: onnx.ModelProto, among: Collection[str]) -> None:
    """Take the weights with names in `among` out of a graph, in place; only their types stay."""
    for tensor in model.graph.initializer:
        if tensor.name in among and _is_large(tensor):
            bare = TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
            bare.data_location = TensorProto.EXTERNAL
            bare.external_data.add(key="location", value=GIVEN)
            tensor.CopyFrom(bare)


def give_weights(model: onnx.ModelProto, weights: Weights) -> None:
    """Put back, in place, what was taken out of a graph."""
    for tensor in _taken(model):
        tensor.CopyFrom(numpy_helper.from_array(weights[tensor.name], tensor.name))


def missing_weights(model: onnx.ModelProto) -> set[str]:
    """Return the names of the weights that were taken out of a graph."""
    return {tensor.name for tensor in _taken(model)}


def read_weights(model: onnx.ModelProto, names: Collection[str]) -> Weights:
    """Return a model's weights by name, without those that it does not have in memory."""
    return {
        tensor.name: np.ascontiguousarray(numpy_helper.to_array(tensor))
        for tensor in model.graph.initializer
        if tensor.name in names and tensor.data_location != TensorProto.EXTERNAL
    }


def read_missing(model: onnx.ModelProto, *graphs: onnx.ModelProto) -> Weights:
    """Return those of a model's weights that were taken out of graphs made from it."""
    return read_weights(model, set().union(*map(missing_weights, graphs)))


def _is_large(tensor: onnx.TensorProto) -> bool:
    external = tensor.data_location == TensorProto.EXTERNAL
    return tensor.data_type in _TYPES and not external and tensor.ByteSize() > _SMALLEST


def _taken(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    for tensor in model.graph.initializer:
        if any(entry.value == GIVEN for entry in tensor.external_data):
            yield tensor

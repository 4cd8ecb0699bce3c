"""Separates a graph, which has kilobytes, from its weights, which have megabytes.

ONNX Runtime accepts weights as values. Derived graphs therefore need not contain them, and several
sessions share them.
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

# Smaller tensors are shapes, axes and scalars, which ONNX Runtime's optimiser reads.
_SMALLEST = 1024
_TYPES = frozenset(
    {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.INT8}
    | {TensorProto.UINT8, TensorProto.INT32, TensorProto.INT64}
)


def take_weights(model: onnx.ModelProto, among: Collection[str]) -> None:
    """Remove the weights named in `among` from a graph, in place; their types remain."""
    for tensor in model.graph.initializer:
        if tensor.name in among and _is_large(tensor):
            bare = TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
            bare.data_location = TensorProto.EXTERNAL
            bare.external_data.add(key="location", value=GIVEN)
            tensor.CopyFrom(bare)


def give_weights(model: onnx.ModelProto, weights: Weights) -> None:
    """Restore removed weights, in place."""
    for tensor in _taken(model):
        tensor.CopyFrom(numpy_helper.from_array(weights[tensor.name], tensor.name))


def missing_weights(model: onnx.ModelProto) -> set[str]:
    """Return the names of the weights that were removed from a graph."""
    return {tensor.name for tensor in _taken(model)}


def read_weights(model: onnx.ModelProto, names: Collection[str]) -> Weights:
    """Return a model's weights by name, except external ones."""
    return {
        tensor.name: np.ascontiguousarray(numpy_helper.to_array(tensor))
        for tensor in model.graph.initializer
        if tensor.name in names and tensor.data_location != TensorProto.EXTERNAL
    }


def read_missing(model: onnx.ModelProto, *graphs: onnx.ModelProto) -> Weights:
    """Return the model's weights that were removed from graphs derived from it."""
    return read_weights(model, set().union(*map(missing_weights, graphs)))


def _is_large(tensor: onnx.TensorProto) -> bool:
    external = tensor.data_location == TensorProto.EXTERNAL
    return tensor.data_type in _TYPES and not external and tensor.ByteSize() > _SMALLEST


def _taken(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    for tensor in model.graph.initializer:
        if any(entry.value == GIVEN for entry in tensor.external_data):
            yield tensor

"""A model with shuffled weights, for the randomisation test.

After Adebayo et al. (arXiv 1810.03292): a map that stays the same when the weights are randomised
does not depend on the model. They reinitialise weights; shuffling within each tensor preserves the
distribution of its values, and so the range of a quantised tensor.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, numpy_helper

from ibisa_onnx.errors import ModelError

_FLOATS = frozenset(
    {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE}
)
_SHORT = frozenset({TensorProto.INT8, TensorProto.UINT8, TensorProto.INT4, TensorProto.UINT4})
"""Integers that hold weights or zero points, never shapes."""

# Inputs that define how others are interpreted: scales, zero points, sizes.
_QLINEAR = (1, 2, 4, 5, 6, 7)
_FIXED = {
    "ConvInteger": (2, 3),
    "DequantizeLinear": (1, 2),
    "DynamicQuantizeLSTM": (8, 9, 10, 11),
    "DynamicQuantizeMatMul": (2, 3),
    "MatMulInteger": (2, 3),
    "MatMulIntegerToFloat": (2, 3, 4, 5),
    "MatMulNBits": (2, 3, 4),
    "QAttention": (3, 4, 6, 7),
    "QGemm": (1, 2, 4, 5, 7, 8),
    "QLinearAdd": _QLINEAR,
    "QLinearConv": _QLINEAR,
    "QLinearMatMul": _QLINEAR,
    "QLinearMul": _QLINEAR,
    "QuantizeLinear": (1, 2),
    "Resize": (1, 2),
    "Upsample": (1,),
}
# Inputs at which an int32 tensor is a bias; anywhere else it may be a shape.
_BIASES = {"DequantizeLinear": (0,), "QGemm": (6,), "QLinearConv": (8,)}
# Operators that pass on their first input.
_PASSING = frozenset({"Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze"})


def shuffled(model: onnx.ModelProto, rng: np.random.Generator) -> onnx.ModelProto:
    """Return a copy of a model with the values of each weight tensor permuted.

    Weights are initializers and constants with more than one value: floats, 8-bit and 4-bit
    integers, and int32 biases of quantised operators, also in subgraphs and functions. Scales, zero
    points, the sizes of `Resize`, other int32 and all int64 tensors, and sparse tensors are left
    unchanged.

    Parameters
    ----------
    model
        A model with its weights in memory.
    rng
        Draws the permutations.

    Returns
    -------
    onnx.ModelProto
        The copy.

    Raises
    ------
    ModelError
        The model has no weights to shuffle, or a weight is stored as external data.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    blocks = list(_blocks(copy))
    roles = _roles(blocks)
    count = 0
    for block in blocks:
        count += sum([_shuffle(tensor, tensor.name, roles, rng) for tensor in block.weights])
        count += sum([_shuffle_constant(node, roles, rng) for node in block.nodes])
    if not count:
        raise ModelError("the model has no weights to shuffle: every tensor is constant")
    return copy


@dataclass(frozen=True)
class _Block:
    """The nodes and initializers of a graph, or the nodes of a function."""

    nodes: list[onnx.NodeProto]
    weights: list[onnx.TensorProto]


@dataclass(frozen=True)
class _Roles:
    """Names of tensors to leave unchanged, and of integer biases."""

    fixed: set[str]
    biases: set[str]


def _blocks(model: onnx.ModelProto) -> Iterator[_Block]:
    """Yield a model's graph, the subgraphs of its nodes, and its functions."""
    yield from _nested(_Block(list(model.graph.node), list(model.graph.initializer)))
    for function in model.functions:
        yield from _nested(_Block(list(function.node), []))


def _nested(block: _Block) -> Iterator[_Block]:
    yield block
    for node in block.nodes:
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                if graph.node:
                    yield from _nested(_Block(list(graph.node), list(graph.initializer)))


def _roles(blocks: list[_Block]) -> _Roles:
    roles = _Roles(set(), set())
    for block in blocks:
        for node in reversed(block.nodes):  # consumers before the nodes that pass a tensor on
            for table, names in ((_FIXED, roles.fixed), (_BIASES, roles.biases)):
                places = table.get(node.op_type, ())
                names.update(node.input[place] for place in places if place < len(node.input))
                if node.op_type in _PASSING and node.output[0] in names:
                    names.add(node.input[0])
    return roles


def _shuffle(tensor: onnx.TensorProto, name: str, roles: _Roles, rng: np.random.Generator) -> bool:
    """Shuffle a tensor in place if it is a weight; return whether it was."""
    bias = tensor.data_type == TensorProto.INT32 and name in roles.biases
    if name in roles.fixed or not (bias or tensor.data_type in _FLOATS | _SHORT):
        return False
    if tensor.data_location == TensorProto.EXTERNAL:
        raise ModelError(
            f"weight '{name}' is stored as external data; load the model with its data"
        )
    values = numpy_helper.to_array(tensor)
    if not _several(values):
        return False
    tensor.CopyFrom(numpy_helper.from_array(_permuted(values, rng), tensor.name))
    return True


def _shuffle_constant(node: onnx.NodeProto, roles: _Roles, rng: np.random.Generator) -> bool:
    """Shuffle the value of a `Constant` node in place if it is a weight; return whether it was."""
    if node.op_type != "Constant":
        return False
    (attribute,) = node.attribute
    name = node.output[0]
    if attribute.name == "value":
        return _shuffle(attribute.t, name, roles, rng)
    floats = np.array(attribute.floats, np.float32)
    if name in roles.fixed or not _several(floats):
        return False
    attribute.floats[:] = _permuted(floats, rng).tolist()
    return True


def _several(values: npt.NDArray[Any]) -> bool:
    return bool(values.size > 1 and (values != values.flat[0]).any())


def _permuted(values: npt.NDArray[Any], rng: np.random.Generator) -> npt.NDArray[Any]:
    """Return the values in a different order: the identity is redrawn."""
    result = values
    while np.array_equal(result, values):
        result = values.ravel()[rng.permutation(values.size)].reshape(values.shape)
    return result

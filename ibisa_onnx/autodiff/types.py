"""Static type of a tensor: its element type and shape."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
import onnx
from onnx import helper

OPSET = 18
"""The backward graph's opset, supported since ONNX Runtime 1.14."""

Array = npt.NDArray[Any]
Dimension = int | str | None

FLOATS = frozenset(
    {
        onnx.TensorProto.FLOAT,
        onnx.TensorProto.FLOAT16,
        onnx.TensorProto.DOUBLE,
        onnx.TensorProto.BFLOAT16,
    }
)

NARROW = frozenset({onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16})
"""Half-precision types, for which sums and squares are computed in float32."""


@dataclass(frozen=True)
class TensorType:
    """Element type (an `onnx.TensorProto` code) and shape; None if unknown."""

    elem: int | None = None
    dims: tuple[Dimension, ...] | None = None

    @property
    def static(self) -> tuple[int, ...] | None:
        """The shape, if all dimensions are static."""
        if self.dims is None:
            return None
        sides = tuple(side for side in self.dims if isinstance(side, int))
        return sides if len(sides) == len(self.dims) else None


def read_type(info: onnx.ValueInfoProto) -> TensorType:
    """Decode a ValueInfoProto."""
    tensor = info.type.tensor_type
    if not tensor.elem_type:
        return TensorType()
    if not tensor.HasField("shape"):
        return TensorType(tensor.elem_type)
    return TensorType(tensor.elem_type, tuple(_read_dimensions(tensor.shape)))


def _read_dimensions(shape: onnx.TensorShapeProto) -> Iterator[Dimension]:
    for side in shape.dim:
        if side.HasField("dim_value"):
            yield side.dim_value if side.dim_value >= 0 else None
        else:
            yield side.dim_param or None


def with_open_sides(infos: Iterable[onnx.ValueInfoProto]) -> Iterator[onnx.ValueInfoProto]:
    """Yield declarations; negative dimensions, written by older Paddle converters, are dynamic."""
    for info in infos:
        declared = onnx.ValueInfoProto()
        declared.CopyFrom(info)
        for side in declared.type.tensor_type.shape.dim:
            if side.dim_value < 0:
                side.Clear()
        yield declared


def value_info(name: str, kind: TensorType) -> onnx.ValueInfoProto:
    """Encode a type; dynamic dimensions remain dynamic."""
    if kind.elem is None:
        return helper.make_empty_tensor_value_info(name)
    return helper.make_tensor_value_info(name, kind.elem, kind.dims)

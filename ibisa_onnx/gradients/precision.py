"""Data types of a model: which have a gradient, and which round coarsely."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

    from ibisa_onnx.models.base import ImageModel
    from ibisa_onnx.models.signature import ImageInput

_FINE = frozenset({"float32", "float64"})


def refused_input(image: ImageInput) -> str | None:
    """Return why there is no exact gradient with respect to an input; None if there may be one."""
    from ibisa_onnx.gradients.masked_graph import BYTES

    if image.dtype.startswith(("float", "bfloat")) or image.dtype in BYTES:
        return None
    return f"input {image.name} has dtype {image.dtype}, for which there is no gradient"


def rounds_coarsely(model: ImageModel, output: str) -> bool:
    """Return whether an output's rounding may hide small changes of the image."""
    dtypes = {each.name: each.dtype for each in model.signature.outputs}
    if dtypes.get(output, "float32") not in _FINE:
        return True
    proto = model.proto()
    return proto is not None and (uses_half(proto) or is_quantised(proto, model.image.name))


def uses_half(model: onnx.ModelProto) -> bool:
    """Return whether anything in a graph is computed in half precision."""
    from onnx import TensorProto

    half = TensorProto.FLOAT16
    return (
        any(tensor.data_type == half for tensor in model.graph.initializer)
        or any(value.type.tensor_type.elem_type == half for value in model.graph.input)
        or any(
            node.op_type == "Cast" and attribute.name == "to" and attribute.i == half
            for node in model.graph.node
            for attribute in node.attribute
        )
    )


def is_quantised(model: onnx.ModelProto, image: str) -> bool:
    """Return whether anything in a graph other than the image is rounded to integers."""
    return any(
        mark in node.op_type
        for node in model.graph.node
        if node.op_type != "DequantizeLinear" and image not in node.output
        for mark in ("QLinear", "QGemm", "QuantizeLinear", "Integer", "DynamicQuantize")
    )

"""Operators on quantised tensors: dequantise, compute, requantise.

These definitions are exact up to rounding, which `dequantise` removes.
"""

from __future__ import annotations

from collections.abc import Sequence

from onnx import TensorProto

from ibisa_onnx.autodiff.definitions.fused import WINDOW, chosen, scaled
from ibisa_onnx.autodiff.definitions.writer import Definitions, Writer
from ibisa_onnx.autodiff.node import Node

definitions = Definitions()
FLOAT = TensorProto.FLOAT


@definitions.add("QuantizeLinear", "DequantizeLinear")
def _as_in_onnx(writer: Writer, node: Node) -> str:
    return writer.op(node.op_type, *writer.inputs, **chosen(node, "axis"))


def _real(writer: Writer, first: int, axis: int = 1) -> str:
    """Dequantise three consecutive inputs: a quantised tensor, its scale and its zero point."""
    tensor, scale, zero = (writer.input(first + i) for i in range(3))
    return writer.op("DequantizeLinear", tensor, scale, zero, axis=axis)


def _quantised(writer: Writer, y: str, first: int) -> str:
    """Quantise with two consecutive inputs: scale and zero point."""
    return writer.op("QuantizeLinear", y, writer.input(first), writer.input(first + 1))


def _integers(writer: Writer, tensor: int, zero: int) -> str:
    """Quantised values minus their zero point, as floats."""
    values = writer.op("Cast", writer.input(tensor), to=FLOAT)
    if not writer.input(zero):
        return values
    return writer.op("Sub", values, writer.op("Cast", writer.input(zero), to=FLOAT))


def _bias(writer: Writer, tensor: int, *scales: int) -> str:
    """32-bit integers in units of the product of two scales."""
    scale = writer.op("Mul", *(writer.input(i) for i in scales))
    return writer.op("Mul", writer.op("Cast", writer.input(tensor), to=FLOAT), scale)


# -- products


@definitions.add("QLinearConv", domain="")
@definitions.add("QLinearConv")
def _qlinear_conv(writer: Writer, node: Node) -> str:
    x, w = _channels_first(writer, node, _real(writer, 0)), _real(writer, 3, axis=0)
    operands = [x, w]
    if writer.input(8):
        operands.append(_bias(writer, 8, 1, 4))
    y = writer.op("Conv", *operands, **chosen(node, *WINDOW, "group"))
    return _quantised(writer, _channels_last(writer, node, y), 6)


@definitions.add("QLinearMatMul", domain="")
def _qlinear_matmul(writer: Writer, node: Node) -> str:
    y = writer.op("MatMul", _real(writer, 0, axis=-2), _real(writer, 3, axis=-1))
    return _quantised(writer, y, 6)


@definitions.add("ConvInteger", domain="")
def _conv_integer(writer: Writer, node: Node) -> str:
    writer.require_scalar(3)
    x, w = _integers(writer, 0, 2), _integers(writer, 1, 3)
    return writer.op("Conv", x, w, **chosen(node, *WINDOW, "group"))


@definitions.add("MatMulInteger", domain="")
def _matmul_integer(writer: Writer, node: Node) -> str:
    writer.require_scalar(2)
    a, b = _integers(writer, 0, 2), _integers(writer, 1, 3)
    return writer.op("MatMul", a, b)


@definitions.add("MatMulIntegerToFloat")
def _matmul_integer_to_float(writer: Writer, node: Node) -> str:
    a, b, a_scale, b_scale, a_zero, b_zero, bias = (writer.input(i) for i in range(7))
    left = writer.op("DequantizeLinear", a, a_scale, a_zero, axis=-2)
    right = writer.op("DequantizeLinear", b, b_scale, b_zero, axis=-1)
    y = writer.op("MatMul", left, right)
    return writer.op("Add", y, bias) if bias else y


@definitions.add("DynamicQuantizeMatMul")
def _dynamic_quantize_matmul(writer: Writer, node: Node) -> str:
    y = writer.op("MatMul", writer.input(0), _real(writer, 1, axis=-1))
    return writer.op("Add", y, writer.input(4)) if writer.input(4) else y


@definitions.add("QGemm")
def _qgemm(writer: Writer, node: Node) -> str:
    """alpha (op(A) op(B) + C); C is in units of both scales."""
    turned = node.attribute("transB", 0)
    a, b = _real(writer, 0), _real(writer, 3, axis=0 if turned else 1)
    given = chosen(node, "alpha", "transA", "transB")
    y = writer.op("Gemm", a, b, **given)
    if writer.input(6):
        y = writer.op(
            "Add", y, scaled(writer, _bias(writer, 6, 1, 4), node.attribute("alpha", 1.0))
        )
    return _quantised(writer, y, 7) if writer.input(7) else y


@definitions.add("DynamicQuantizeLSTM")
def _dynamic_quantize_lstm(writer: Writer, node: Node) -> Sequence[str]:
    """An LSTM with weights [directions, inputs, 4 hidden] and a scale per direction or column."""
    directions = 2 if node.attribute("direction", "forward") == "bidirectional" else 1
    along = writer.ints(directions, 1, -1)

    def real(tensor: int, first: int) -> str:
        scale, zero = (writer.op("Reshape", writer.input(first + i), along) for i in range(2))
        less = writer.op(
            "Sub", *(writer.op("Cast", x, to=FLOAT) for x in (writer.input(tensor), zero))
        )
        return writer.op("Transpose", writer.op("Mul", less, scale), perm=[0, 2, 1])

    weights = real(1, 8), real(2, 10)
    operands = [writer.input(0), *weights, *(writer.input(place) for place in range(3, 8))]
    return writer.ops("LSTM", len(node.outputs), *operands, **node.attributes)


# -- element by element


@definitions.add("QLinearAdd", "QLinearMul")
def _arithmetic(writer: Writer, node: Node) -> str:
    op_type = node.op_type.removeprefix("QLinear")
    return _quantised(writer, writer.op(op_type, _real(writer, 0), _real(writer, 3)), 6)


@definitions.add("QLinearSigmoid", "QLinearLeakyRelu")
def _activation(writer: Writer, node: Node) -> str:
    op_type = node.op_type.removeprefix("QLinear")
    return _quantised(writer, writer.op(op_type, _real(writer, 0), **chosen(node, "alpha")), 3)


@definitions.add("QLinearSoftmax")
def _softmax(writer: Writer, node: Node) -> str:
    """Before opset 13, all axes from `axis` on are normalised together."""
    x, axis = _real(writer, 0), node.attribute("axis", -1)
    if node.attribute("opset") >= 13:
        return _quantised(writer, writer.op("Softmax", x, axis=axis), 3)
    flat = writer.op("Softmax", writer.op("Flatten", x, axis=axis), axis=-1)
    return _quantised(writer, writer.op("Reshape", flat, writer.op("Shape", x)), 3)


@definitions.add("QLinearWhere")
def _where(writer: Writer, node: Node) -> str:
    return _quantised(
        writer, writer.op("Where", writer.input(0), _real(writer, 1), _real(writer, 4)), 7
    )


@definitions.add("QLinearConcat")
def _concat(writer: Writer, node: Node) -> str:
    parts = [_real(writer, first) for first in range(2, len(writer.inputs), 3)]
    return _quantised(writer, writer.op("Concat", *parts, axis=node.attribute("axis")), 0)


# -- pooling


@definitions.add("QLinearAveragePool", "QLinearGlobalAveragePool")
def _average_pool(writer: Writer, node: Node) -> str:
    x = _channels_first(writer, node, _real(writer, 0))
    given = chosen(node, *WINDOW, "ceil_mode", "count_include_pad")
    y = writer.op(node.op_type.removeprefix("QLinear"), x, **given)
    return _quantised(writer, _channels_last(writer, node, y), 3)


@definitions.add("NhwcMaxPool")
def _nhwc_max_pool(writer: Writer, node: Node) -> str:
    x = _turned(writer, writer.input(0), [0, 3, 1, 2])
    y = writer.op("MaxPool", x, **chosen(node, *WINDOW, "ceil_mode"))
    return writer.op("Transpose", y, perm=[0, 2, 3, 1])


def _channels_first(writer: Writer, node: Node, x: str) -> str:
    """[N, H, W, C] -> [N, C, H, W] if the node has channels last."""
    return _turned(writer, x, [0, 3, 1, 2]) if node.attribute("channels_last", 0) else x


def _channels_last(writer: Writer, node: Node, y: str) -> str:
    last = node.attribute("channels_last", 0)
    return writer.op("Transpose", y, perm=[0, 2, 3, 1]) if last else y


def _turned(writer: Writer, x: str, order: list[int]) -> str:
    writer.require_rank(0, len(order))
    return writer.op("Transpose", x, perm=order)

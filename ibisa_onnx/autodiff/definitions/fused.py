"""Operators that ONNX Runtime's optimiser fuses: convolutions and matrix products with activations,
activations with a bias, and normalisations with a skip connection.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ibisa_onnx.autodiff.definitions.writer import Definitions, Writer
from ibisa_onnx.autodiff.node import Node
from ibisa_onnx.errors import UnsupportedOperatorError

definitions = Definitions()


def chosen(node: Node, *names: str) -> dict[str, Any]:
    """Return the attributes of a node that are in `names`."""
    return {name: node.attributes[name] for name in names if name in node.attributes}


WINDOW = ("auto_pad", "kernel_shape", "strides", "dilations", "pads")


# -- convolutions and matrix products


@definitions.add("FusedConv")
def _fused_conv(writer: Writer, node: Node) -> str:
    """activation(Conv(X, W, B) + Z)."""
    y = writer.op("Conv", *writer.inputs[:3], **chosen(node, *WINDOW, "group"))
    if writer.input(3):
        y = writer.op("Add", y, writer.input(3))
    parameters = node.attribute("activation_params", [])
    return _activated(writer, y, node.attribute("activation", ""), parameters)


@definitions.add("FusedGemm")
def _fused_gemm(writer: Writer, node: Node) -> str:
    given = chosen(node, "alpha", "beta", "transA", "transB")
    y = writer.op("Gemm", *writer.inputs, **given)
    names = ("activation_alpha", "activation_beta", "activation_gamma")
    parameters = list(chosen(node, *names).values())
    return _activated(writer, y, node.attribute("activation", ""), parameters)


def _activated(writer: Writer, x: str, activation: str, parameters: Sequence[float]) -> str:
    if not activation:
        return x
    if activation == "Clip":
        return writer.op("Clip", x, *(writer.scalar(bound, x) for bound in parameters))
    if activation not in _ACTIVATIONS:
        raise UnsupportedOperatorError(f"its activation {activation} is not supported")
    given = dict(zip(_ACTIVATIONS[activation], parameters, strict=False))
    return writer.op(activation, x, **given)


# The parameters of each activation, in order.
_ACTIVATIONS: dict[str, tuple[str, ...]] = {
    "Relu": (),
    "Sigmoid": (),
    "Tanh": (),
    "Softplus": (),
    "Softsign": (),
    "HardSwish": (),
    "LeakyRelu": ("alpha",),
    "Elu": ("alpha",),
    "ThresholdedRelu": ("alpha",),
    "HardSigmoid": ("alpha", "beta"),
}


@definitions.add("FusedMatMul", "TransposeMatMul")
def _fused_matmul(writer: Writer, node: Node) -> str:
    """alpha op(A) op(B)."""
    if node.attribute("transBatchA", 0) or node.attribute("transBatchB", 0):
        raise UnsupportedOperatorError("transBatchA and transBatchB are not supported")
    a, b = writer.inputs
    a = writer.op("Einsum", a, equation="...ij->...ji") if node.attribute("transA", 0) else a
    b = writer.op("Einsum", b, equation="...ij->...ji") if node.attribute("transB", 0) else b
    return scaled(writer, writer.op("MatMul", a, b), node.attribute("alpha", 1.0))


def scaled(writer: Writer, x: str, factor: float) -> str:
    """Multiply by a number, omitted if it is 1."""
    return x if factor == 1.0 else writer.op("Mul", x, writer.scalar(factor, x))


# -- activations


@definitions.add("Gelu", "BiasGelu")
def _gelu(writer: Writer, node: Node) -> str:
    """x Phi(x), with Phi the normal distribution function; x = A + B for BiasGelu."""
    x = _biased(writer)
    half = writer.scalar(0.5, x)
    phi = writer.op("Erf", writer.op("Mul", x, writer.scalar(math.sqrt(0.5), x)))
    share = writer.op("Add", writer.op("Mul", phi, half), half)
    return writer.op("Mul", x, share)


@definitions.add("FastGelu")
def _fast_gelu(writer: Writer, node: Node) -> str:
    """x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2; x = X + bias."""
    x = _biased(writer)
    half, one = writer.scalar(0.5, x), writer.scalar(1.0, x)
    square = writer.op("Mul", writer.op("Mul", x, x), writer.scalar(0.044715, x))
    inner = writer.op("Mul", x, writer.op("Add", square, one))
    bend = writer.op("Tanh", writer.op("Mul", inner, writer.scalar(math.sqrt(2 / math.pi), x)))
    return writer.op("Mul", x, writer.op("Add", writer.op("Mul", bend, half), half))


def _biased(writer: Writer) -> str:
    x, bias = writer.input(0), writer.input(1)
    return writer.op("Add", x, bias) if bias else x


@definitions.add("QuickGelu")
def _quick_gelu(writer: Writer, node: Node) -> str:
    """x sigmoid(alpha x)."""
    x = writer.input(0)
    gate = writer.op("Sigmoid", scaled(writer, x, node.attribute("alpha", 1.702)))
    return writer.op("Mul", x, gate)


# -- normalizations


@definitions.add("LayerNormalization", domain="")
def _layer_normalization(writer: Writer, node: Node) -> str:
    """In ONNX since opset 17; ONNX Runtime also writes it into older models."""
    return writer.op("LayerNormalization", *writer.inputs, **chosen(node, "axis", "epsilon"))


@definitions.add("SimplifiedLayerNormalization", domain="")
def _simplified_layer_normalization(writer: Writer, node: Node) -> str:
    if node.attribute("axis", -1) != -1:
        raise UnsupportedOperatorError("axes other than the last are not supported")
    return _scaled_by_root_mean_square(
        writer, writer.input(0), writer.input(1), node.attribute("epsilon", 1e-5)
    )


@definitions.add("SkipLayerNormalization")
def _skip_layer_normalization(writer: Writer, node: Node) -> list[str]:
    """Layer normalisation of input + skip + bias, which is the fourth output."""
    total = _with_skip(writer, writer.input(4))
    affine = [name for name in writer.inputs[2:4] if name]
    y = writer.op("LayerNormalization", total, *affine, axis=-1, **chosen(node, "epsilon"))
    return _skip_outputs(y, total)


@definitions.add("SkipSimplifiedLayerNormalization")
def _skip_simplified_layer_normalization(writer: Writer, node: Node) -> list[str]:
    total = _with_skip(writer, writer.input(3))
    epsilon = node.attribute("epsilon", 1e-5)
    y = _scaled_by_root_mean_square(writer, total, writer.input(2), epsilon)
    return _skip_outputs(y, total)


def _with_skip(writer: Writer, bias: str) -> str:
    total = writer.op("Add", *writer.inputs[:2])
    return writer.op("Add", total, bias) if bias else total


def _skip_outputs(y: str, total: str) -> list[str]:
    """Return the outputs; the statistics between them are for training, and omitted."""
    return [y, "", "", total]


def _scaled_by_root_mean_square(writer: Writer, x: str, scale: str, epsilon: float) -> str:
    """scale x / sqrt(mean(x^2) + epsilon)."""
    mean = writer.op("ReduceMean", writer.op("Mul", x, x), writer.ints(-1), keepdims=1)
    root = writer.op("Sqrt", writer.op("Add", mean, writer.scalar(epsilon, x)))
    return writer.op("Mul", writer.op("Div", x, root), scale)

"""The ONNX operators of image classifiers, in torch.

An operator receives its node and its inputs: tensors, constants as arrays, and None for omitted
inputs. It follows ONNX from opset 7 on, or raises `UnsupportedOperatorError`. The table at the end
lists the attributes that each supports; nodes with other attributes are rejected.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ibisa_onnx.autodiff.node import Node
from ibisa_onnx.autodiff.types import FLOATS
from ibisa_onnx.errors import UnsupportedOperatorError

Operator = Callable[[Node, list[Any]], Tensor]

OLDEST_OPSET = 7
"""Earlier opsets broadcast differently, and have operators that train by default."""


def _refuse(node: Node, what: str) -> UnsupportedOperatorError:
    return UnsupportedOperatorError(f"{node.op_type} {node.name!r}: {what} is not supported")


def _require(node: Node, name: str, value: Any) -> None:
    """Raise if an attribute has another value, for any axis if it has several."""
    given = node.attribute(name, value)
    if any(each != value for each in (given if isinstance(given, list) else [given])):
        raise _refuse(node, f"{name}={given}")


def _tensor(value: Any, like: Tensor) -> Tensor:
    """Return a constant as a tensor with the device and dtype of another."""
    if isinstance(value, Tensor):
        return value
    return torch.tensor(value, dtype=like.dtype, device=like.device)


def _number(node: Node, value: Any, what: str) -> float:
    """Return a constant of one element."""
    if isinstance(value, Tensor):
        raise _refuse(node, f"{what} that depends on the image")
    return float(value)


# -- one input, or two with broadcasting


def _elementwise(function: Callable[[Tensor], Tensor]) -> Operator:
    return lambda node, x: function(x[0])


def _binary(function: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    def compute(node: Node, x: list[Any]) -> Tensor:
        like = x[0] if isinstance(x[0], Tensor) else x[1]
        return function(_tensor(x[0], like), _tensor(x[1], like))

    return compute


def _cast(node: Node, x: list[Any]) -> Tensor:
    """Cast between floats, all of which are float32 here."""
    if node.attribute("to") not in FLOATS:
        raise _refuse(node, "rounding")
    result: Tensor = x[0].float()
    return result


def _clip(node: Node, x: list[Any]) -> Tensor:
    bounds = [node.attribute("min", -math.inf), node.attribute("max", math.inf)]
    for place, given in enumerate(x[1:3]):
        if given is not None:
            bounds[place] = _number(node, given, "a bound")
    return torch.clamp(x[0], *bounds)


def _dropout(node: Node, x: list[Any]) -> Tensor:
    if len(x) > 2 and x[2] is not None and _number(node, x[2], "training_mode"):
        raise _refuse(node, "training_mode")
    result: Tensor = x[0]
    return result


def _hard_sigmoid(node: Node, x: list[Any]) -> Tensor:
    line = node.attribute("alpha", 0.2) * x[0] + node.attribute("beta", 0.5)
    return torch.clamp(line, 0, 1)


def _softmax(function: Callable[..., Tensor]) -> Operator:
    def compute(node: Node, x: list[Any]) -> Tensor:
        if node.opset >= 13:
            return function(x[0], dim=node.attribute("axis", -1))
        flat = x[0].flatten(node.attribute("axis", 1))  # all axes from there on together
        return function(flat, dim=-1).reshape(x[0].shape)

    return compute


# -- windows


def _padded(node: Node, x: Tensor, kernel: Sequence[int], value: float) -> Tensor:
    """Return the image with a window operator's padding."""
    if len(kernel) != 2:
        raise _refuse(node, f"a window of {len(kernel)} axes")
    mode = node.attribute("auto_pad", "NOTSET")
    top, left, bottom, right = node.attribute("pads", [0, 0, 0, 0])
    if mode.startswith("SAME"):
        _require(node, "dilations", 1)  # ONNX and ONNX Runtime disagree
        sides = []
        for size, k, stride in zip(x.shape[2:], kernel, _strides(node), strict=True):
            total = max(0, (math.ceil(size / stride) - 1) * stride + k - size)
            small = total // 2
            sides.append((small, total - small) if mode == "SAME_UPPER" else (total - small, small))
        (top, bottom), (left, right) = sides
    if not any((top, left, bottom, right)):
        return x
    return functional.pad(x, (left, right, top, bottom), value=value)


def _strides(node: Node) -> list[int]:
    strides: list[int] = node.attribute("strides", [1, 1])
    return strides


def _conv(node: Node, x: list[Any]) -> Tensor:
    return functional.conv2d(
        _padded(node, x[0], x[1].shape[2:], 0),
        x[1],
        x[2] if len(x) > 2 else None,
        _strides(node),
        0,
        node.attribute("dilations", [1, 1]),
        node.attribute("group", 1),
    )


def _max_pool(node: Node, x: list[Any]) -> Tensor:
    _require(node, "ceil_mode", 0)
    kernel, dilations = node.attribute("kernel_shape"), node.attribute("dilations", [1, 1])
    padded = _padded(node, x[0], kernel, -math.inf)
    return functional.max_pool2d(padded, kernel, _strides(node), 0, dilations)


def _average_pool(node: Node, x: list[Any]) -> Tensor:
    _require(node, "ceil_mode", 0)
    _require(node, "dilations", 1)
    kernel, strides = node.attribute("kernel_shape"), _strides(node)
    mean = functional.avg_pool2d(_padded(node, x[0], kernel, 0), kernel, strides)
    if node.attribute("count_include_pad", 0):
        return mean
    inside = _padded(node, torch.ones_like(x[0][:1, :1]), kernel, 0)
    return mean / functional.avg_pool2d(inside, kernel, strides)


def _all_places(function: Callable[..., Tensor]) -> Operator:
    return lambda node, x: function(x[0], tuple(range(2, x[0].ndim)), keepdim=True)


# -- sums of products, and norms


def _gemm(node: Node, x: list[Any]) -> Tensor:
    a = x[0].T if node.attribute("transA", 0) else x[0]
    b = x[1].T if node.attribute("transB", 0) else x[1]
    product: Tensor = node.attribute("alpha", 1.0) * (a @ b)
    if len(x) > 2 and x[2] is not None:
        product = product + node.attribute("beta", 1.0) * x[2]
    return product


def _batch_norm(node: Node, x: list[Any]) -> Tensor:
    _require(node, "training_mode", 0)
    _require(node, "spatial", 1)
    if any(node.outputs[1:]):
        raise _refuse(node, "training")
    scale, bias, mean, variance = (_tensor(each, x[0]) for each in x[1:5])
    return functional.batch_norm(
        x[0], mean, variance, scale, bias, False, 0.0, node.attribute("epsilon", 1e-5)
    )


def _layer_norm(node: Node, x: list[Any]) -> Tensor:
    bias, shape = x[2] if len(x) > 2 else None, x[0].shape[node.attribute("axis", -1) :]
    return functional.layer_norm(x[0], shape, x[1], bias, node.attribute("epsilon", 1e-5))


# -- axes


def _axes(node: Node, x: list[Any]) -> list[int]:
    """Return the axes, an attribute or in later opsets the second input; they are required."""
    axes = x[1] if len(x) > 1 and x[1] is not None else node.attribute("axes", [])
    if not len(axes):
        raise _refuse(node, "omitting its axes")
    return [int(axis) for axis in axes]


def _reduce_mean(node: Node, x: list[Any]) -> Tensor:
    return torch.mean(x[0], _axes(node, x), bool(node.attribute("keepdims", 1)))


def _squeeze(node: Node, x: list[Any]) -> Tensor:
    return torch.squeeze(x[0], tuple(_axes(node, x)))


def _unsqueeze(node: Node, x: list[Any]) -> Tensor:
    axes = _axes(node, x)
    result: Tensor = x[0]
    for axis in sorted(a % (x[0].ndim + len(axes)) for a in axes):
        result = result.unsqueeze(axis)
    return result


def _flatten(node: Node, x: list[Any]) -> Tensor:
    """Flatten to two axes."""
    axis, shape = node.attribute("axis", 1), x[0].shape
    result: Tensor = x[0].reshape(math.prod(shape[:axis]), math.prod(shape[axis:]))
    return result


def _reshape(node: Node, x: list[Any]) -> Tensor:
    _require(node, "allowzero", 0)
    sides = [int(side) for side in x[1]]
    result: Tensor = x[0].reshape([side or x[0].shape[i] for i, side in enumerate(sides)])
    return result


def _transpose(node: Node, x: list[Any]) -> Tensor:
    result: Tensor = x[0].permute(node.attribute("perm", list(range(x[0].ndim))[::-1]))
    return result


def _pad(node: Node, x: list[Any]) -> Tensor:
    _require(node, "mode", "constant")
    if len(x) > 3 and x[3] is not None:
        raise _refuse(node, "axes")
    pads = [int(side) for side in (x[1] if len(x) > 1 else node.attribute("pads"))]
    given = x[2] if len(x) > 2 else None
    value = node.attribute("value", 0.0) if given is None else _number(node, given, "a value")
    begin, end = pads[: len(pads) // 2], pads[len(pads) // 2 :]
    sides = [side for pair in zip(begin[::-1], end[::-1], strict=True) for side in pair]
    return functional.pad(x[0], sides, value=value)


def _concat(node: Node, x: list[Any]) -> Tensor:
    like = next(each for each in x if isinstance(each, Tensor))
    return torch.cat([_tensor(each, like) for each in x], node.attribute("axis"))


_WINDOWS = "auto_pad dilations kernel_shape pads strides"

OPERATORS: dict[str, tuple[Operator, str]] = {
    "Add": (_binary(torch.add), ""),
    "AveragePool": (_average_pool, f"{_WINDOWS} ceil_mode count_include_pad"),
    "BatchNormalization": (_batch_norm, "epsilon momentum spatial training_mode"),
    "Cast": (_cast, "to saturate"),
    "Clip": (_clip, "min max"),
    "Concat": (_concat, "axis"),
    "Conv": (_conv, f"{_WINDOWS} group"),
    "Div": (_binary(torch.div), ""),
    "Dropout": (_dropout, "ratio seed"),
    "Elu": (lambda node, x: functional.elu(x[0], node.attribute("alpha", 1.0)), "alpha"),
    "Erf": (_elementwise(torch.erf), ""),
    "Exp": (_elementwise(torch.exp), ""),
    "Flatten": (_flatten, "axis"),
    "Gelu": (
        lambda node, x: functional.gelu(x[0], approximate=node.attribute("approximate", "none")),
        "approximate",
    ),
    "Gemm": (_gemm, "alpha beta transA transB"),
    "GlobalAveragePool": (_all_places(torch.mean), ""),
    "GlobalMaxPool": (_all_places(torch.amax), ""),
    "HardSigmoid": (_hard_sigmoid, "alpha beta"),
    "HardSwish": (_elementwise(functional.hardswish), ""),
    "Identity": (_elementwise(lambda x: x), ""),
    "LayerNormalization": (_layer_norm, "axis epsilon stash_type"),
    "LeakyRelu": (
        lambda node, x: functional.leaky_relu(x[0], node.attribute("alpha", 0.01)),
        "alpha",
    ),
    "LogSoftmax": (_softmax(functional.log_softmax), "axis"),
    "MatMul": (_binary(torch.matmul), ""),
    "MaxPool": (_max_pool, f"{_WINDOWS} ceil_mode storage_order"),
    "Mul": (_binary(torch.mul), ""),
    "Pad": (_pad, "mode pads value"),
    "Pow": (_binary(torch.pow), ""),
    "ReduceMean": (_reduce_mean, "axes keepdims noop_with_empty_axes"),
    "Relu": (_elementwise(functional.relu), ""),
    "Reshape": (_reshape, "allowzero"),
    "Sigmoid": (_elementwise(torch.sigmoid), ""),
    "Softmax": (_softmax(functional.softmax), "axis"),
    "Sqrt": (_elementwise(torch.sqrt), ""),
    "Squeeze": (_squeeze, "axes"),
    "Sub": (_binary(torch.sub), ""),
    "Tanh": (_elementwise(torch.tanh), ""),
    "Transpose": (_transpose, "perm"),
    "Unsqueeze": (_unsqueeze, "axes"),
}
"""By operator: the function that computes it, and the attributes that it supports."""

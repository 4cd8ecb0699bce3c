"""A deployed graph as a PyTorch module whose weights can be trained on.

Quantised graphs are read as the real function that they approximate, with the file's own scales
(`ibisa_onnx.autodiff.dequantise`). Here are the operators that image classifiers are made of, one
small function each; a graph with any other is refused, for a student of another kind to take its
place. The gradient of a deployed model by itself needs none of this: see `ibisa_onnx.autodiff`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional

from ibisa_onnx.autodiff.dequantise import dequantise
from ibisa_onnx.autodiff.graph import Graph
from ibisa_onnx.autodiff.node import Node
from ibisa_onnx.errors import UnsupportedOperatorError

Array = np.ndarray[Any, Any]


class GraphModule(nn.Module):
    """One output of an ONNX model of images, float32, for any number of images at once.

    Parameters
    ----------
    model
        The model, weights in it.
    input, output
        The input that takes the image, in its own layout, and the output that is computed. Of an
        integer output the values are real: those that would have been rounded to it.

    Raises
    ------
    UnsupportedOperatorError
        An operator is none of those known here, or a weight is not in the file.
    """

    def __init__(self, model: onnx.ModelProto, input: str, output: str) -> None:
        super().__init__()
        twin = dequantise(Graph(model, output), input)
        if twin.refused or (twin.graph.output == output and twin.input != input):
            raise UnsupportedOperatorError(f"{output} has no real counterpart")
        self._input, self._output = twin.input, twin.graph.output
        self._names: dict[str, str] = {}
        graph = twin.graph
        nodes = [n for n in graph.nodes if not graph.constants.issuperset(filter(None, n.outputs))]
        nodes = [n for n in nodes if self._input not in n.outputs]
        known = {self._input, *(node.outputs[0] for node in nodes)}
        self._steps = [self._step(node, graph, known) for node in nodes]

    def forward(self, images: Tensor) -> Tensor:
        """Return the output of images [N, C, H, W], or [N, H, W, C] where the input is so."""
        values = {self._input: images}
        for node, constants, operator in self._steps:
            arguments: list[Any] = [
                values[name] if name in values else constants.get(name, self._weight(name))
                for name in node.inputs
            ]
            values[node.outputs[0]] = operator(node, arguments)
        return values[self._output]

    def _weight(self, name: str) -> Tensor | None:
        return self.get_parameter(self._names[name]) if name in self._names else None

    def _step(self, node: Node, graph: Graph, known: set[str]) -> Step:
        """Return a node, what it reads of constants, and what computes it."""
        operator = _OPERATORS.get(node.op_type) if node.domain == "" else None
        if operator is None or node.captured:
            raise UnsupportedOperatorError(f"{node.op_type} {node.name!r} is not covered")
        constants = {}
        for name in node.uses:
            if name not in known and name not in graph.constants:
                raise UnsupportedOperatorError(f"it depends on {name!r} beside the image")
            if name in graph.constants:
                value = graph.value(name)
                if value is None:
                    raise UnsupportedOperatorError(f"the weight {name!r} is not in the file")
                frozen = node.op_type == "BatchNormalization" and name in node.inputs[3:]
                if node.op_type in _LEARNING and value.dtype.kind == "f" and not frozen:
                    self._learn(name, value)
                else:
                    constants[name] = value
        return node, constants, operator

    def _learn(self, name: str, value: Array) -> None:
        if name not in self._names:
            self._names[name] = f"weight_{len(self._names)}"
            parameter = nn.Parameter(torch.tensor(value, dtype=torch.float32))
            self.register_parameter(self._names[name], parameter)


Operator = Callable[[Node, list[Any]], Tensor]
Step = tuple[Node, dict[str, Array], Operator]
_LEARNING = frozenset({"Conv", "Gemm", "MatMul", "BatchNormalization", "LayerNormalization"})


def _tensor(value: Any, like: Tensor) -> Tensor:
    """A constant beside a tensor: on its device, of its dtype."""
    if isinstance(value, Tensor):
        return value
    return torch.tensor(value, dtype=like.dtype, device=like.device)


def _elementwise(function: Callable[[Tensor], Tensor]) -> Operator:
    return lambda node, x: function(x[0])


def _binary(function: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    def compute(node: Node, x: list[Any]) -> Tensor:
        like = x[0] if isinstance(x[0], Tensor) else x[1]
        return function(_tensor(x[0], like), _tensor(x[1], like))

    return compute


def _padded(node: Node, x: Tensor, kernel: Sequence[int], value: float) -> Tensor:
    """The image with the padding that a window operator asks for."""
    strides, spread = node.attribute("strides", [1, 1]), node.attribute("dilations", [1, 1])
    mode = node.attribute("auto_pad", "NOTSET")
    top, left, bottom, right = node.attribute("pads", [0, 0, 0, 0])
    if mode.startswith("SAME"):
        sides = []
        for size, k, stride, step in zip(x.shape[2:], kernel, strides, spread, strict=True):
            span = (math.ceil(size / stride) - 1) * stride + (k - 1) * step + 1
            total = max(0, span - size)
            small = total // 2
            sides.append((small, total - small) if mode == "SAME_UPPER" else (total - small, small))
        (top, bottom), (left, right) = sides
    if not any((top, left, bottom, right)):
        return x
    return functional.pad(x, (left, right, top, bottom), value=value)


def _conv(node: Node, x: list[Any]) -> Tensor:
    if x[1].ndim != 4:
        raise UnsupportedOperatorError(f"Conv {node.name!r} is not of images")
    return functional.conv2d(
        _padded(node, x[0], x[1].shape[2:], 0),
        x[1],
        x[2] if len(x) > 2 else None,
        node.attribute("strides", [1, 1]),
        0,
        node.attribute("dilations", [1, 1]),
        node.attribute("group", 1),
    )


def _max_pool(node: Node, x: list[Any]) -> Tensor:
    _refuse(node, "ceil_mode", "storage_order")
    kernel = node.attribute("kernel_shape")
    padded = _padded(node, x[0], kernel, -math.inf)
    strides, dilations = node.attribute("strides", [1, 1]), node.attribute("dilations", [1, 1])
    return functional.max_pool2d(padded, kernel, strides, 0, dilations)


def _average_pool(node: Node, x: list[Any]) -> Tensor:
    _refuse(node, "ceil_mode")
    kernel, strides = node.attribute("kernel_shape"), node.attribute("strides", [1, 1])
    mean = functional.avg_pool2d(_padded(node, x[0], kernel, 0), kernel, strides)
    if node.attribute("count_include_pad", 0):
        return mean
    share = functional.avg_pool2d(
        _padded(node, torch.ones_like(x[0][:1, :1]), kernel, 0), kernel, strides
    )
    return mean / share


def _refuse(node: Node, *attributes: str) -> None:
    for name in attributes:
        if node.attribute(name, 0):
            raise UnsupportedOperatorError(f"{node.op_type} {node.name!r}: {name} is not covered")


def _gemm(node: Node, x: list[Any]) -> Tensor:
    product: Tensor
    a = x[0].T if node.attribute("transA", 0) else x[0]
    b = x[1].T if node.attribute("transB", 0) else x[1]
    product = node.attribute("alpha", 1.0) * (a @ b)
    if len(x) > 2:
        product = product + node.attribute("beta", 1.0) * x[2]
    return product


def _batch_norm(node: Node, x: list[Any]) -> Tensor:
    _refuse(node, "training_mode")
    scale, bias, mean, variance = (_tensor(each, x[0]) for each in x[1:5])
    return functional.batch_norm(
        x[0], mean, variance, scale, bias, False, 0.0, node.attribute("epsilon", 1e-5)
    )


def _layer_norm(node: Node, x: list[Any]) -> Tensor:
    bias, shape = x[2] if len(x) > 2 else None, x[0].shape[node.attribute("axis", -1) :]
    return functional.layer_norm(x[0], shape, x[1], bias, node.attribute("epsilon", 1e-5))


def _clip(node: Node, x: list[Any]) -> Tensor:
    bounds = [node.attribute("min"), node.attribute("max")]
    for place, given in enumerate(x[1:3]):
        if given is not None:
            bounds[place] = float(given)
    return torch.clamp(x[0], *bounds)


def _softmax(function: Callable[..., Tensor]) -> Operator:
    def compute(node: Node, x: list[Any]) -> Tensor:
        if node.opset >= 13:
            return function(x[0], dim=node.attribute("axis", -1))
        flat = x[0].flatten(node.attribute("axis", 1))
        return function(flat, dim=-1).reshape(x[0].shape)

    return compute


def _reshape(node: Node, x: list[Any]) -> Tensor:
    """The first axis is the images', whatever number the file wrote there."""
    _refuse(node, "allowzero")
    shape = [int(side) for side in x[1]]
    sides = [x[0].shape[i] if side == 0 else side for i, side in enumerate(shape)]
    reshaped: Tensor = x[0].reshape(x[0].shape[0], *sides[1:])
    return reshaped


def _axes(node: Node, x: list[Any]) -> list[int] | None:
    axes = x[1] if len(x) > 1 and x[1] is not None else node.attribute("axes")
    return None if axes is None else [int(axis) for axis in axes]


def _squeeze(node: Node, x: list[Any]) -> Tensor:
    axes = _axes(node, x)
    if axes is None:
        raise UnsupportedOperatorError(f"Squeeze {node.name!r} without axes is not covered")
    return torch.squeeze(x[0], tuple(axes))


def _unsqueeze(node: Node, x: list[Any]) -> Tensor:
    axes: list[int] = _axes(node, x) or []
    result: Tensor = x[0]
    for axis in sorted(a % (x[0].ndim + len(axes)) for a in axes):
        result = result.unsqueeze(axis)
    return result


def _reduce_mean(node: Node, x: list[Any]) -> Tensor:
    axes, keep = _axes(node, x), bool(node.attribute("keepdims", 1))
    if not axes:
        raise UnsupportedOperatorError(f"ReduceMean {node.name!r} of all axes is not covered")
    return torch.mean(x[0], axes, keep)


def _pad(node: Node, x: list[Any]) -> Tensor:
    pads = [int(p) for p in (x[1] if len(x) > 1 else node.attribute("pads"))]
    if node.attribute("mode", "constant") != "constant" or (len(x) > 3 and x[3] is not None):
        raise UnsupportedOperatorError(f"Pad {node.name!r} is not covered")
    given = x[2] if len(x) > 2 else None
    value = node.attribute("value", 0.0) if given is None else float(given)
    begin, end = pads[: len(pads) // 2], pads[len(pads) // 2 :]
    sides = [side for pair in zip(begin[::-1], end[::-1], strict=True) for side in pair]
    return functional.pad(x[0], sides, value=value)


def _concat(node: Node, x: list[Any]) -> Tensor:
    like = next(each for each in x if isinstance(each, Tensor))
    return torch.cat([_tensor(each, like) for each in x], node.attribute("axis"))


_OPERATORS: dict[str, Operator] = {
    "Add": _binary(torch.add),
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Cast": lambda node, x: x[0].float(),
    "Clip": _clip,
    "Concat": _concat,
    "Conv": _conv,
    "Div": _binary(torch.div),
    "Dropout": lambda node, x: x[0],
    "Elu": lambda node, x: functional.elu(x[0], node.attribute("alpha", 1.0)),
    "Erf": _elementwise(torch.erf),
    "Exp": _elementwise(torch.exp),
    "Flatten": lambda node, x: x[0].flatten(node.attribute("axis", 1)),
    "Gelu": lambda node, x: functional.gelu(
        x[0], approximate=node.attribute("approximate", "none")
    ),
    "Gemm": _gemm,
    "GlobalAveragePool": lambda node, x: x[0].mean((2, 3), keepdim=True),
    "GlobalMaxPool": lambda node, x: x[0].amax((2, 3), keepdim=True),
    "HardSigmoid": lambda node, x: torch.clamp(
        node.attribute("alpha", 0.2) * x[0] + node.attribute("beta", 0.5), 0, 1
    ),
    "HardSwish": _elementwise(functional.hardswish),
    "Identity": lambda node, x: x[0],
    "LayerNormalization": _layer_norm,
    "LeakyRelu": lambda node, x: functional.leaky_relu(x[0], node.attribute("alpha", 0.01)),
    "LogSoftmax": _softmax(functional.log_softmax),
    "MatMul": _binary(torch.matmul),
    "MaxPool": _max_pool,
    "Mul": _binary(torch.mul),
    "Pad": _pad,
    "Pow": _binary(torch.pow),
    "ReduceMean": _reduce_mean,
    "Relu": _elementwise(functional.relu),
    "Reshape": _reshape,
    "Sigmoid": _elementwise(torch.sigmoid),
    "Softmax": _softmax(functional.softmax),
    "Sqrt": _elementwise(torch.sqrt),
    "Squeeze": _squeeze,
    "Sub": _binary(torch.sub),
    "Tanh": _elementwise(torch.tanh),
    "Transpose": lambda node, x: x[0].permute(node.attribute("perm", list(range(x[0].ndim))[::-1])),
    "Unsqueeze": _unsqueeze,
}

"""A deployed graph as a PyTorch module with trainable weights.

Quantised graphs are read as the float function that they approximate, with the file's own scales
(`ibisa_onnx.autodiff.dequantise`). Graphs with operators or attributes that `operators` does not
support are rejected, so that another kind of student is used. The exact gradient of a deployed
model does not depend on this module: see `ibisa_onnx.autodiff`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from ibisa_exporters.distillation.operators import OLDEST_OPSET, OPERATORS, Operator
from ibisa_onnx.autodiff.dequantise import dequantise
from ibisa_onnx.autodiff.graph import Graph
from ibisa_onnx.autodiff.node import Node
from ibisa_onnx.autodiff.types import Array
from ibisa_onnx.errors import UnsupportedOperatorError

_LEARNING = frozenset({"Conv", "Gemm", "MatMul", "BatchNormalization", "LayerNormalization"})

Step = tuple[Node, dict[str, Array], Operator]
"""A node, the constants that it reads, and the function that computes it."""


class GraphModule(nn.Module):
    """One output of an ONNX image model in float32, for any batch size.

    Parameters
    ----------
    model
        The model, including weights.
    input
        Name of the image input, in its own layout.
    output
        Name of the output to compute. An integer output has real values, before rounding.

    Raises
    ------
    UnsupportedOperatorError
        An operator is not supported, or a weight is not in the file. Some operators are rejected
        only when they run.
    """

    def __init__(self, model: onnx.ModelProto, input: str, output: str) -> None:
        super().__init__()
        graph = Graph(model, output)
        if graph.opsets[""] < OLDEST_OPSET:
            raise UnsupportedOperatorError(f"opset {graph.opsets['']} is not supported")
        real = dequantise(graph, input)
        if real.refused or (real.graph.output == output and real.input != input):
            raise UnsupportedOperatorError(f"{output} has no float counterpart")
        self._input, self._output = real.input, real.graph.output
        self._names: dict[str, str] = {}
        graph = real.graph
        nodes = [n for n in graph.nodes if not graph.constants.issuperset(filter(None, n.outputs))]
        nodes = [n for n in nodes if self._input not in n.outputs]
        known = {self._input, *(node.outputs[0] for node in nodes)}
        batch = (graph.type(input).dims or (None,))[0]
        self._batch = batch if isinstance(batch, int) else 1
        self._steps = [self._step(node, graph, known) for node in nodes]

    def forward(self, images: Tensor) -> Tensor:
        """Return the output for images [N, C, H, W], or [N, H, W, C] if that is the layout."""
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
        constants = {}
        for name in node.uses:
            if name not in known and name not in graph.constants:
                raise UnsupportedOperatorError(f"it depends on {name!r} as well as the image")
            if name in graph.constants:
                value = graph.value(name)
                if value is None:
                    raise UnsupportedOperatorError(f"the weight {name!r} is not in the file")
                frozen = node.op_type == "BatchNormalization" and name in node.inputs[3:]
                if node.op_type in _LEARNING and value.dtype.kind == "f" and not frozen:
                    self._learn(name, value)
                else:
                    constants[name] = value
        if node.op_type == "Reshape" and node.input(1) in constants:
            constants[node.input(1)] = self._any_batch(node, graph, constants[node.input(1)])
        return node, constants, _operator(node)

    def _any_batch(self, node: Node, graph: Graph, shape: Array) -> Array:
        """Return a shape for any batch size, if the file hard-codes its own."""
        first = (graph.type(node.input(0)).dims or (None,))[0]
        of_images = first == self._batch or not isinstance(first, int)
        if of_images and shape.size and shape[0] == self._batch and not node.attribute("allowzero"):
            return np.array([0, *shape[1:]])
        return shape

    def _learn(self, name: str, value: Array) -> None:
        if name not in self._names:
            self._names[name] = f"weight_{len(self._names)}"
            parameter = nn.Parameter(torch.tensor(value, dtype=torch.float32))
            self.register_parameter(self._names[name], parameter)


def _operator(node: Node) -> Operator:
    """Return the function that computes a node, if all its attributes are supported."""
    known = OPERATORS.get(node.op_type) if node.domain == "" else None
    if known is None or node.captured:
        raise UnsupportedOperatorError(f"{node.op_type} {node.name!r} is not supported")
    operator, heeded = known
    for name in sorted(node.attributes.keys() - set(heeded.split())):
        raise UnsupportedOperatorError(f"{node.op_type} {node.name!r}: {name} is not supported")
    return operator

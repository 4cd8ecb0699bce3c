"""A head: ONNX nodes appended to a model's outputs or inner tensors, which compute an objective.

Uses only operators whose meaning is unchanged since opset 7.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import onnx

_PREFIX = "ibisa_head"


class Head:
    """Appends nodes to a graph, in place, with unique names."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._graph = graph
        taken = {name for node in graph.node for name in (*node.input, *node.output)}
        self._taken = taken | {each.name for each in (*graph.input, *graph.initializer)}

    def op(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        """Add a node with one output, and return the output's name."""
        from onnx import helper

        name = self._fresh(op_type.lower())
        self._graph.node.append(helper.make_node(op_type, inputs, [name], name=name, **attributes))
        return name

    def named(self, tensor: str, name: str) -> str:
        """Name a tensor, reshaped to one number per image, float32 [N, 1]."""
        from onnx import helper

        rows = self.op("Reshape", self.rows(tensor), self.constant([-1, 1], np.int64))
        self._graph.node.append(helper.make_node("Identity", [rows], [name], name=name))
        return name

    def alias(self, tensor: str, name: str) -> str:
        """Name a tensor, in its own shape."""
        from onnx import helper

        self._graph.node.append(helper.make_node("Identity", [tensor], [name], name=name))
        self._taken.add(name)
        return name

    def largest(self, values: str) -> str:
        """Return the maximum of each row of [N, K], [N, 1]."""
        rows = self.op("Reshape", values, self.constant([0, 1, -1], np.int64))
        return self.op("Reshape", self.op("GlobalMaxPool", rows), self.constant([-1, 1], np.int64))

    def constant(self, value: npt.ArrayLike, dtype: npt.DTypeLike = np.float32) -> str:
        """Add an initializer, and return its name."""
        from onnx import numpy_helper

        name = self._fresh("constant")
        self._graph.initializer.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def rows(self, name: str) -> str:
        """Return a tensor [N, ...] as float32 [N, K]."""
        from onnx import TensorProto

        return self.op("Cast", self.op("Flatten", name, axis=1), to=TensorProto.FLOAT)

    def column(self, rows: str, index: int) -> str:
        """Return one column of [N, K], [N, 1]."""
        return self.op("Gather", rows, self.constant([index], np.int64), axis=1)

    def log(self, values: str, least: float) -> str:
        """Return the logarithm of values clipped below at `least`."""
        floor = self.constant(least)  # max(x, e) = relu(x - e) + e: Max and Clip differ by opset
        above = self.op("Relu", self.op("Sub", values, floor))
        return self.op("Log", self.op("Add", above, floor))

    def log_sigmoid(self, logits: str) -> str:
        """Return log sigmoid(x) = -softplus(-x)."""
        return self.op("Neg", self.op("Softplus", self.op("Neg", logits)))

    def _fresh(self, word: str) -> str:
        number = 0
        while (name := f"{_PREFIX}/{word}_{number}") in self._taken:
            number += 1
        self._taken.add(name)
        return name

"""Construction of a definition: an ONNX function of standard operators, for one node."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ibisa_onnx.autodiff.node import Node
from ibisa_onnx.autodiff.types import OPSET, Array, TensorType
from ibisa_onnx.errors import UnsupportedOperatorError

DOMAIN = "ibisa.definitions"
"""Domain of the functions during type inference."""

_IMPORTS = [helper.make_opsetid("", OPSET)]


class Writer:
    """Collects the nodes of one definition.

    Tensors are names without types, because types are inferred through the definition. `inputs`
    has "" for each optional input that the node omits.
    """

    def __init__(self, node: Node) -> None:
        self.inputs = tuple(f"in_{i}" if name else "" for i, name in enumerate(node.inputs))
        self.nodes: list[onnx.NodeProto] = []
        self.ranks: dict[int, tuple[int, ...]] = {}

    def input(self, index: int) -> str:
        """Return the name of an input, or "" for an omitted optional one."""
        return self.inputs[index] if index < len(self.inputs) else ""

    def op(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        """Write a node of one output and return the output's name."""
        return self.ops(op_type, 1, *inputs, **attributes)[0]

    def ops(self, op_type: str, count: int, *inputs: str, **attributes: Any) -> tuple[str, ...]:
        """Write a node of `count` outputs and return their names."""
        outputs = tuple(f"{op_type}_{len(self.nodes)}_{i}" for i in range(count))
        self.nodes.append(helper.make_node(op_type, list(inputs), list(outputs), **attributes))
        return outputs

    def ints(self, *values: int) -> str:
        """Return a 1-D int64 constant."""
        return self._constant(np.array(values, np.int64))

    def scalar(self, value: float, like: str) -> str:
        """Return a scalar constant of another tensor's element type."""
        return self.op("CastLike", self._constant(np.array(value, np.float32)), like)

    def _constant(self, value: Array) -> str:
        return self.op("Constant", value=numpy_helper.from_array(value))

    def require_rank(self, index: int, rank: int) -> None:
        """Require a rank of an input; otherwise the operator is unsupported."""
        self.ranks[index] = (rank,)

    def require_scalar(self, index: int) -> None:
        """Require an input of one element; otherwise the operator is unsupported."""
        self.ranks[index] = (0, 1)


@dataclass(frozen=True)
class Definition:
    """A function of standard operators.

    `outputs` are the indices of the node's outputs that it computes, `ranks` the accepted ranks of
    inputs by index; (0, 1) requires a single element.
    """

    function: onnx.FunctionProto
    outputs: tuple[int, ...]
    ranks: dict[int, tuple[int, ...]]

    def check(self, node: Node, type_of: Callable[[str], TensorType]) -> None:
        """Raise `UnsupportedOperatorError` if the node's inputs have other shapes."""
        for index, ranks in self.ranks.items():
            dims = type_of(node.input(index)).dims
            fits = (
                dims is not None
                and len(dims) in ranks
                and (dims == (1,) or dims == () or 0 not in ranks)
            )
            if node.input(index) and not fits:
                raise UnsupportedOperatorError(f"the shape of its input {index} is not supported")


Define = Callable[[Writer, Node], str | Sequence[str]]
"""Writes the definition of a node and returns its outputs' names, "" for omitted ones."""


class Definitions:
    """The definitions of a family of operators, by domain and name."""

    def __init__(self, *families: Definitions) -> None:
        self._table: dict[tuple[str, str], Define] = {}
        for family in families:
            for key, define in family:
                self._add(key, define)

    def __iter__(self) -> Iterator[tuple[tuple[str, str], Define]]:
        return iter(self._table.items())

    def add(self, *op_types: str, domain: str = "com.microsoft") -> Callable[[Define], Define]:
        """Register the decorated function for these operators of a domain."""

        def register(define: Define) -> Define:
            for op_type in op_types:
                self._add((domain, op_type), define)
            return define

        return register

    def define(self, node: Node) -> Definition | None:
        """Return a node's definition in standard operators; None if there is none.

        Raises
        ------
        UnsupportedOperatorError
            The definition does not support the node's inputs or attributes.
        """
        define = self._table.get((node.domain, node.op_type))
        if define is None:
            return None
        writer = Writer(node)
        results = define(writer, node)
        named = [results] if isinstance(results, str) else results
        outputs = {i: name for i, name in enumerate(named) if name}
        inputs = [name or f"none_{i}" for i, name in enumerate(writer.inputs)]
        function = helper.make_function(
            DOMAIN, node.op_type, inputs, list(outputs.values()), writer.nodes, _IMPORTS
        )
        return Definition(function, tuple(outputs), writer.ranks)

    def _add(self, key: tuple[str, str], define: Define) -> None:
        if key in self._table:
            raise ValueError(f"two definitions of {'.'.join(key)}")
        self._table[key] = define

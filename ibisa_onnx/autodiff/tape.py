"""The tape that rules write to: the backward graph under construction.

A rule refers to forward tensors and its own tensors alike; `assemble` determines what to save, copy
or drop once the tape is complete.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from ibisa_onnx.autodiff.graph import Graph
from ibisa_onnx.autodiff.node import Node
from ibisa_onnx.autodiff.types import NARROW, OPSET, Array, Dimension, TensorType
from ibisa_onnx.errors import UnsupportedOperatorError

END = int(np.iinfo(np.int64).max)
"""End of a slice that extends to the end of an axis."""

Operand = str | Array


class UnknownTypeError(UnsupportedOperatorError):
    """A rule requires the type of a tensor, which is unknown."""


class Tape:
    """Writes nodes of the backward graph, and provides types and values of tensors.

    Tensors are referred to by name. Types and values are known for tensors of the forward graph and
    for those declared with `declare`.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.nodes: list[Node] = []
        self.literals: dict[str, Array] = {}
        # Gradients known to be 0 wherever their tensor is 0: a rule need not mask them again.
        self.vanishing: set[str] = set()
        # Whether a possibly infinite slope has been passed, after which gradients may be infinite.
        self.steep = False
        # The tensors whose gradient is required; set by the driver.
        self.active: set[str] = set()
        # Gradients that a Where has set to 0 where their tensor may be NaN.
        self.guarded: set[str] = set()
        self._types: dict[str, TensorType] = {}
        self._known: dict[tuple[Any, ...], str] = {}
        self._count = 0

    # -- writing

    def fresh(self, hint: str) -> str:
        """Return a name that no tensor has yet."""
        self._count += 1
        name = f"grad/{hint}_{self._count}"
        return name if name not in self.graph else self.fresh(hint)

    def op(self, op_type: str, *inputs: Operand | None, **attributes: Any) -> str:
        """Write a node of one output and return the output's name."""
        return self.ops(op_type, 1, *inputs, **attributes)[0]

    def ops(
        self, op_type: str, count: int, *inputs: Operand | None, **attributes: Any
    ) -> tuple[str, ...]:
        """Write a node of `count` outputs and return their names."""
        names = [self._operand(operand) for operand in inputs]
        outputs = tuple(self.fresh(op_type) for _ in range(count))
        given = {key: value for key, value in attributes.items() if value is not None}
        proto = helper.make_node(op_type, names, outputs, name=outputs[0], **given)
        self.write(proto)
        return outputs

    def write(self, proto: onnx.NodeProto) -> None:
        """Append a node unchanged."""
        self.nodes.append(Node.read(proto, {"": OPSET}))

    @contextmanager
    def inside(self) -> Iterator[list[Node]]:
        """Write to a separate list, for the body of a node."""
        outside, self.nodes = self.nodes, []
        try:
            yield self.nodes
        finally:
            self.nodes = outside

    def _operand(self, operand: Operand | None) -> str:
        if operand is None:
            return ""
        return operand if isinstance(operand, str) else self.constant(operand)

    def constant(self, value: Array) -> str:
        """Return the name of a constant tensor; equal ones share a name."""
        key = (value.dtype.name, value.shape, value.tobytes())
        if key not in self._known:
            self._known[key] = self.fresh("constant")
            self.literals[self._known[key]] = value
            elem = helper.np_dtype_to_tensor_dtype(value.dtype)
            self._types[self._known[key]] = TensorType(elem, value.shape)
        return self._known[key]

    def scalar(self, value: float, like: str) -> str:
        """Return a scalar constant of another tensor's element type."""
        return self.constant(np.array(value, self.dtype(like)))

    def ints(self, *values: int) -> str:
        """Return a 1-D int64 constant."""
        return self.constant(np.array(values, np.int64))

    def declare(self, name: str, kind: TensorType, value: Array | None = None) -> None:
        """Declare the type, and optionally the value, of a tensor of the backward graph."""
        self._types[name] = kind
        if value is not None:
            self.literals[name] = value

    # -- asking

    def type(self, name: str) -> TensorType:
        """Return element type and shape, as far as they are known."""
        return self._types.get(name) or self.graph.type(name)

    def dtype(self, name: str) -> npt.DTypeLike:
        """Return the NumPy dtype of a tensor."""
        elem = self.type(name).elem
        if elem is None:
            raise UnknownTypeError(f"the element type of {name!r} is unknown")
        dtype = helper.tensor_dtype_to_np_dtype(elem)
        # Older releases of onnx have no bfloat16 for NumPy and return float32 instead.
        if helper.np_dtype_to_tensor_dtype(dtype) != elem:
            raise UnsupportedOperatorError(f"the element type of {name!r} is not supported")
        return dtype

    def dims(self, name: str) -> tuple[Dimension, ...]:
        """Return the shape, with symbols or None for dynamic dimensions."""
        dims = self.type(name).dims
        if dims is None:
            raise UnknownTypeError(f"the rank of {name!r} is unknown")
        return dims

    def rank(self, name: str) -> int:
        """Return the number of axes."""
        return len(self.dims(name))

    def value(self, name: str) -> Array | None:
        """Return the value of a constant; None for other tensors."""
        if not name:
            return None
        return self.literals[name] if name in self.literals else self.graph.value(name)

    def required(self, name: str, what: str) -> Array:
        """Return the value of a constant that a rule requires."""
        value = self.value(name)
        if value is None:
            raise UnsupportedOperatorError(f"its {what} are computed at run time")
        return value

    def option(self, node: Node, name: str, index: int, default: Any = None) -> Any:
        """Return, as a list, what newer opsets have as an input and older ones as an attribute."""
        if name in node.attributes:
            return node.attributes[name]
        if not node.input(index):
            return default
        return np.atleast_1d(self.required(node.input(index), name)).tolist()

    # -- shapes at run time

    def shape(self, name: str) -> str:
        """Return a tensor's shape as an int64 vector: a constant if known, else computed."""
        static = self.type(name).static
        return self.op("Shape", name) if static is None else self.ints(*static)

    def side(self, name: str, axis: int) -> str:
        """Return the length of an axis, as an int64 vector of one element."""
        side = self.dims(name)[axis]
        if isinstance(side, int):
            return self.ints(side)
        return self.op("Gather", self.shape(name), self.ints(axis % self.rank(name)))

    def count_up(self, end: str) -> str:
        """Return 0, 1, ... up to `end` (excluded), a scalar or a vector of one element."""
        zero, one = (self.constant(np.array(i, np.int64)) for i in (0, 1))
        return self.op("Range", zero, self.op("Squeeze", end), one)

    def reshape(self, dy: str, like: str) -> str:
        """Reshape `dy` to the shape of a tensor with the same number of elements."""
        dims = self.type(like).dims
        if dims is not None:
            sides = [side if isinstance(side, int) else -1 for side in dims]
            if sides.count(-1) <= 1 and 0 not in sides:
                return self.op("Reshape", dy, self.ints(*sides))
        return self.op("Reshape", dy, self.shape(like), allowzero=1)

    def expand(self, dy: str, like: str, given: Sequence[int] = ()) -> str:
        """Broadcast `dy`, which has all axes, and full length along those in `given`."""
        sides = [1 if axis in given else side for axis, side in enumerate(self.dims(like))]
        known = [side for side in sides if isinstance(side, int)]
        if 0 in known:  # ONNX Runtime would leave a length of 1 unchanged
            return self.zeros(like)
        if len(known) == len(sides):
            return self.op("Expand", dy, self.ints(*known))
        return self.op("Expand", dy, self.shape(like))

    def masked(self, dy: str, mask: str, like: str) -> str:
        """Return `dy` where a boolean mask is true, else 0.

        Uses a cast and a product: ONNX Runtime's Where is several times slower, and is required
        only if `dy` may be infinite.
        """
        if self.steep:
            return self.op("Where", mask, dy, self.scalar(0.0, like))
        return self.op("Mul", dy, self.op("Cast", mask, to=self.type(like).elem))

    def zeros(self, like: str) -> str:
        """Return zeros of a tensor's shape and element type."""
        zero = numpy_helper.from_array(np.zeros(1, self.dtype(like)))
        return self.op("ConstantOfShape", self.shape(like), value=zero)

    def scatter_add(
        self,
        blank: str,
        indices: str,
        dy: str,
        *,
        like: str,
        op_type: str = "ScatterElements",
        **attributes: Any,
    ) -> str:
        """Add `dy` to zeros at indices, all in the element type of `like`.

        Half-precision values are added in float32, as ONNX Runtime's CPU kernels require.
        """
        elem = self.type(like).elem
        if elem in NARROW:
            blank, dy = (self.op("Cast", each, to=onnx.TensorProto.FLOAT) for each in (blank, dy))
        total = self.op(op_type, blank, indices, dy, reduction="add", **attributes)
        return self.op("Cast", total, to=elem) if elem in NARROW else total

    def unbroadcast(self, dy: str, like: str, result: str) -> str:
        """Sum `dy`, of `result`'s shape, over the axes along which `like` was broadcast."""
        small, large = self.dims(like), self.dims(result)
        lead = len(large) - len(small)
        pairs = list(zip(small, large[lead:], strict=True))
        # A static dimension shows whether it was broadcast; a symbol does only if equal.
        if any(not isinstance(a, int) and (a is None or a != b) for a, b in pairs):
            return self.unbroadcast_at_run_time(self.sum(dy, range(lead)), like)
        summed = [lead + i for i, (a, b) in enumerate(pairs) if a == 1 and b != 1]
        return self.sum(dy, [*range(lead)], summed)

    def sum(self, dy: str, dropped: Sequence[int], kept: Sequence[int] = ()) -> str:
        """Sum over axes, then drop those in `dropped`."""
        if kept:
            dy = self.op("ReduceSum", dy, self.ints(*dropped, *kept), keepdims=1)
            return self.op("Squeeze", dy, self.ints(*dropped)) if dropped else dy
        return self.op("ReduceSum", dy, self.ints(*dropped), keepdims=0) if dropped else dy

    def unbroadcast_at_run_time(self, dy: str, like: str) -> str:
        """Sum over the axes along which `like`, of the same rank, turns out to have length 1."""
        # If dy has length 1 there as well, the sum changes nothing.
        ones = self.op("Equal", self.shape(like), self.ints(1))
        axes = self.op("Squeeze", self.op("NonZero", ones), self.ints(0))
        return self.op("ReduceSum", dy, axes, keepdims=1, noop_with_empty_axes=1)

"""Reductions over axes, and cumulative operators."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ibisa_onnx.autodiff.node import Node
from ibisa_onnx.autodiff.registry import Cotangents, Rules
from ibisa_onnx.autodiff.scan import Track, write_scan
from ibisa_onnx.autodiff.tape import Tape

rules = Rules()

Body = Callable[[Tape, str, str, str, "Axes"], str]
"""Computes the gradient from x, from y and dy with the reduced axes kept, and from the axes."""


@dataclass(frozen=True)
class Axes:
    """The axes of a reduction: numbers, or the name of a tensor if computed at run time."""

    known: list[int] | None
    name: str = ""
    noop_if_empty: int = 0

    def keep(self, tape: Tape, reduced: str) -> str:
        """Restore the dropped axes with length 1."""
        if self.known is None:
            return tape.op("Unsqueeze", reduced, self.name)
        return tape.op("Unsqueeze", reduced, tape.ints(*self.known)) if self.known else reduced

    def sum(self, tape: Tape, x: str) -> str:
        """Sum over the axes and keep them."""
        if self.known is not None:
            return tape.sum(x, (), self.known)
        return tape.op("ReduceSum", x, self.name, noop_with_empty_axes=self.noop_if_empty)

    def spread(self, tape: Tape, x: str, dy: str) -> str:
        """Broadcast along the axes to the shape of `x`."""
        if self.known is None:
            return tape.op("Expand", dy, tape.shape(x))
        rank = tape.rank(x)
        reduced = {axis % rank for axis in self.known}
        return tape.expand(dy, x, given=[axis for axis in range(rank) if axis not in reduced])


def _reduction(*op_types: str) -> Callable[[Body], Body]:
    """Register a reduction; the decorated function never sees a dropped axis."""

    def register(body: Body) -> Body:
        def rule(tape: Tape, node: Node, dy: str) -> Cotangents:
            x, y = node.input(0), node.outputs[0]
            axes = _axes(tape, node)
            if not node.attribute("keepdims", 1):
                dy, y = axes.keep(tape, dy), axes.keep(tape, y)
            return [body(tape, x, y, dy, axes)]

        for op_type in op_types:
            rules.add(op_type)(rule)
        return body

    return register


def _axes(tape: Tape, node: Node) -> Axes:
    noop = node.attribute("noop_with_empty_axes", 0)
    name = node.input(1)
    if name and tape.value(name) is None:
        # Dropping all axes leaves a scalar, which broadcasts like a tensor of all axes.
        return Axes(None, name, noop)
    axes = tape.option(node, "axes", 1)
    if not axes:
        return Axes([] if noop else list(range(tape.rank(node.input(0)))))
    # Unsqueeze counts negative axes from the end of its result, which is x's rank: the same.
    return Axes([int(axis) for axis in axes])


@_reduction("ReduceSum")
def _sum(tape: Tape, x: str, y: str, dy: str, axes: Axes) -> str:
    return axes.spread(tape, x, dy)


@_reduction("ReduceMean")
def _mean(tape: Tape, x: str, y: str, dy: str, axes: Axes) -> str:
    if axes.known is not None:
        return axes.spread(tape, x, share(tape, x, dy, axes.known))
    sizes = [tape.op("Cast", tape.op("Size", v), to=tape.type(x).elem) for v in (y, x)]
    return axes.spread(tape, x, tape.op("Mul", dy, tape.op("Div", *sizes)))


def share(tape: Tape, x: str, dy: str, axes: list[int]) -> str:
    """`dy` divided by the number of elements along the axes of `x`."""
    sides = [tape.dims(x)[axis] for axis in axes]
    known = [side for side in sides if isinstance(side, int)]
    if len(known) == len(sides):
        count = max(math.prod(known), 1)  # with no elements there is nothing to divide
        return tape.op("Mul", dy, tape.scalar(1 / count, x))
    chosen = tape.op("Gather", tape.shape(x), tape.ints(*axes))
    number = tape.op("ReduceProd", chosen, keepdims=0)
    return tape.op("Div", dy, tape.op("Cast", number, to=tape.type(x).elem))


@_reduction("ReduceMax", "ReduceMin")
def _extremum(tape: Tape, x: str, y: str, dy: str, axes: Axes) -> str:
    """Equal fractions for all elements that attain the extremum."""
    hits = tape.op("Cast", tape.op("Equal", x, y), to=tape.type(x).elem)
    return tape.op("Mul", hits, tape.op("Div", dy, axes.sum(tape, hits)))


def extremum(tape: Tape, x: str, y: str, dy: str, axes: list[int]) -> str:
    """The gradient of a maximum or minimum over axes, from y and dy that keep them."""
    return _extremum(tape, x, y, dy, Axes(axes))


@_reduction("ReduceL1")
def _l1(tape: Tape, x: str, y: str, dy: str, axes: Axes) -> str:
    return tape.op("Mul", dy, tape.op("Sign", x))


@_reduction("ReduceL2")
def _l2(tape: Tape, x: str, y: str, dy: str, axes: Axes) -> str:
    """x / y, and 0 where all elements are 0."""
    zero = tape.op("Equal", y, tape.scalar(0.0, x))
    safe = tape.op("Where", zero, tape.scalar(1.0, x), y)
    return tape.op("Mul", x, tape.op("Div", dy, safe))


@_reduction("ReduceSumSquare")
def _sum_square(tape: Tape, x: str, y: str, dy: str, axes: Axes) -> str:
    return tape.op("Mul", dy, tape.op("Add", x, x))


@_reduction("ReduceLogSum")
def _log_sum(tape: Tape, x: str, y: str, dy: str, axes: Axes) -> str:
    return axes.spread(tape, x, tape.op("Div", dy, tape.op("Exp", y)))


@_reduction("ReduceLogSumExp")
def _log_sum_exp(tape: Tape, x: str, y: str, dy: str, axes: Axes) -> str:
    return tape.op("Mul", dy, tape.op("Exp", tape.op("Sub", x, y)))


@_reduction("ReduceProd")
def _product(tape: Tape, x: str, y: str, dy: str, axes: Axes) -> str:
    """The product of all others: y / x, except where there are zeros."""
    zero, one = tape.scalar(0.0, x), tape.scalar(1.0, x)
    is_zero = tape.op("Equal", x, zero)
    count = axes.sum(tape, tape.op("Cast", is_zero, to=tape.type(x).elem))
    safe = tape.op("Where", is_zero, one, x)
    rest = _product_of(tape, safe, axes)
    others = tape.op("Where", is_zero, rest, tape.op("Div", y, safe))
    lone = tape.op("Or", tape.op("Not", is_zero), tape.op("Equal", count, one))
    return tape.op("Mul", dy, tape.op("Where", lone, others, zero))


def _product_of(tape: Tape, x: str, axes: Axes) -> str:
    if axes.known is None:
        return tape.op("ReduceProd", x, axes.name, noop_with_empty_axes=axes.noop_if_empty)
    return tape.op("ReduceProd", x, tape.ints(*axes.known)) if axes.known else x


@rules.add("CumSum")
def _cumsum(tape: Tape, node: Node, dy: str) -> Cotangents:
    reverse = 1 - node.attribute("reverse", 0)
    exclusive = node.attribute("exclusive", 0)
    return [tape.op("CumSum", dy, node.input(1), reverse=reverse, exclusive=exclusive)]


@rules.expand("CumProd")
def _cumprod(tape: Tape, node: Node) -> Sequence[str]:
    """Accumulated from element to element: exact where there are zeros, unlike y / x."""
    x, rank = node.input(0), tape.rank(node.input(0))
    axis = int(tape.required(node.input(1), "axis").item()) % rank
    others = tape.ints(*(other for other in range(rank) if other != axis))
    shape = tape.op("Gather", tape.shape(x), others)
    before, reverse = tape.fresh("product"), node.attribute("reverse", 0)
    factor = Track(tape.fresh("factor"), axis, reverse)
    with tape.inside() as nodes:
        after = tape.op("Mul", before, factor.name)
        shown = tape.op("Identity", before if node.attribute("exclusive", 0) else after)
    states = {before: tape.op("Expand", tape.scalar(1.0, x), shape)}
    result = Track(shown, axis, reverse)
    return write_scan(tape, nodes, states, {factor: x}, [after], [result])[1:]

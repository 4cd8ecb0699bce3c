"""Reductions over axes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ibisa_onnx.autodiff.node import Node
from ibisa_onnx.autodiff.registry import Cotangents, Rules
from ibisa_onnx.autodiff.tape import Tape

rules = Rules()

Body = Callable[[Tape, str, str, str, list[int]], str]
"""The gradient from x, and from y and dy with the reduced axes kept, and the axes."""


def _reduction(*op_types: str) -> Callable[[Body], Body]:
    """Register a reduction; the decorated function never sees a dropped axis."""

    def register(body: Body) -> Body:
        def rule(tape: Tape, node: Node, dy: str) -> Cotangents:
            x, y = node.input(0), node.outputs[0]
            axes = _axes(tape, node)
            if axes is None:
                axes = [] if node.attribute("noop_with_empty_axes", 0) else None
            if axes is None:
                axes = list(range(tape.rank(x)))
            if not node.attribute("keepdims", 1) and axes:
                dy = tape.op("Unsqueeze", dy, tape.ints(*axes))
                y = tape.op("Unsqueeze", y, tape.ints(*axes))
            return [body(tape, x, y, dy, axes)]

        for op_type in op_types:
            rules.add(op_type)(rule)
        return body

    return register


def _axes(tape: Tape, node: Node) -> list[int] | None:
    axes = tape.option(node, "axes", 1)
    if not axes:
        return None
    # Unsqueeze counts negative axes from the end of its result, which is x's rank: the same.
    return [int(axis) for axis in axes]


def _spread(tape: Tape, x: str, dy: str, axes: list[int]) -> str:
    rank = tape.rank(x)
    reduced = {axis % rank for axis in axes}
    return tape.expand(dy, x, given=[axis for axis in range(rank) if axis not in reduced])


@_reduction("ReduceSum")
def _sum(tape: Tape, x: str, y: str, dy: str, axes: list[int]) -> str:
    return _spread(tape, x, dy, axes)


@_reduction("ReduceMean")
def _mean(tape: Tape, x: str, y: str, dy: str, axes: list[int]) -> str:
    return _spread(tape, x, share(tape, x, dy, axes), axes)


def share(tape: Tape, x: str, dy: str, axes: list[int]) -> str:
    """`dy` divided by the number of elements along the axes of `x`."""
    sides = [tape.dims(x)[axis] for axis in axes]
    known = [side for side in sides if isinstance(side, int)]
    if len(known) == len(sides):
        return tape.op("Mul", dy, tape.scalar(1 / np.prod(known, dtype=np.float64), x))
    chosen = tape.op("Gather", tape.shape(x), tape.ints(*axes))
    count = tape.op("ReduceProd", chosen, keepdims=0)
    return tape.op("Div", dy, tape.op("Cast", count, to=tape.type(x).elem))


@_reduction("ReduceMax", "ReduceMin")
def extremum(tape: Tape, x: str, y: str, dy: str, axes: list[int]) -> str:
    """Equal shares for all elements that attain the extremum."""
    hits = tape.op("Cast", tape.op("Equal", x, y), to=tape.type(x).elem)
    return tape.op("Mul", hits, tape.op("Div", dy, tape.sum(hits, (), axes)))


@_reduction("ReduceL1")
def _l1(tape: Tape, x: str, y: str, dy: str, axes: list[int]) -> str:
    return tape.op("Mul", dy, tape.op("Sign", x))


@_reduction("ReduceL2")
def _l2(tape: Tape, x: str, y: str, dy: str, axes: list[int]) -> str:
    """x / y, and 0 where all elements are 0."""
    zero = tape.op("Equal", y, tape.scalar(0.0, x))
    safe = tape.op("Where", zero, tape.scalar(1.0, x), y)
    return tape.op("Mul", x, tape.op("Div", dy, safe))


@_reduction("ReduceSumSquare")
def _sum_square(tape: Tape, x: str, y: str, dy: str, axes: list[int]) -> str:
    return tape.op("Mul", dy, tape.op("Add", x, x))


@_reduction("ReduceLogSum")
def _log_sum(tape: Tape, x: str, y: str, dy: str, axes: list[int]) -> str:
    return _spread(tape, x, tape.op("Div", dy, tape.op("Exp", y)), axes)


@_reduction("ReduceLogSumExp")
def _log_sum_exp(tape: Tape, x: str, y: str, dy: str, axes: list[int]) -> str:
    return tape.op("Mul", dy, tape.op("Exp", tape.op("Sub", x, y)))


@rules.add("CumSum")
def _cumsum(tape: Tape, node: Node, dy: str) -> Cotangents:
    reverse = 1 - node.attribute("reverse", 0)
    exclusive = node.attribute("exclusive", 0)
    return [tape.op("CumSum", dy, node.input(1), reverse=reverse, exclusive=exclusive)]

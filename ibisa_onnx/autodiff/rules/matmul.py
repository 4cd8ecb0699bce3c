"""Matrix products."""

from __future__ import annotations

from ibisa_onnx.autodiff.node import Node
from ibisa_onnx.autodiff.registry import Cotangents, Rules
from ibisa_onnx.autodiff.tape import Tape
from ibisa_onnx.errors import UnsupportedOperatorError

rules = Rules()


@rules.add("Gemm")
def _gemm(tape: Tape, node: Node, dy: str) -> Cotangents:
    """Y = alpha op(A) op(B) + beta C."""
    a, b, c = node.input(0), node.input(1), node.input(2)
    alpha, beta = node.attribute("alpha", 1.0), node.attribute("beta", 1.0)
    turn_a, turn_b = node.attribute("transA", 0), node.attribute("transB", 0)
    if turn_a:
        da = tape.op("Gemm", b, dy, alpha=alpha, transA=turn_b, transB=1)
    else:
        da = tape.op("Gemm", dy, b, alpha=alpha, transB=1 - turn_b)
    if turn_b:
        db = tape.op("Gemm", dy, a, alpha=alpha, transA=1, transB=turn_a)
    else:
        db = tape.op("Gemm", a, dy, alpha=alpha, transA=1 - turn_a)
    if not c:
        return [da, db]
    dc = dy if beta == 1.0 else tape.op("Mul", dy, tape.scalar(beta, c))
    return [da, db, tape.unbroadcast(dc, like=c, result=node.outputs[0])]


@rules.add("MatMul")
def _matmul(tape: Tape, node: Node, dy: str) -> Cotangents:
    a, b = node.inputs
    rank_a, rank_b = tape.rank(a), tape.rank(b)
    # A vector is a matrix of one row (left) or one column (right) whose axis is dropped after.
    if rank_b == 1:
        dy = tape.op("Unsqueeze", dy, tape.ints(-1))
    if rank_a == 1:
        dy = tape.op("Unsqueeze", dy, tape.ints(-2))
    rows = tape.op("Unsqueeze", a, tape.ints(0)) if rank_a == 1 else a
    columns = tape.op("Unsqueeze", b, tape.ints(1)) if rank_b == 1 else b
    da = tape.op("MatMul", dy, _turn(tape, columns, max(rank_b, 2)))
    db = tape.op("MatMul", _turn(tape, rows, max(rank_a, 2)), dy)
    batch = max(rank_a, rank_b, 2) - 2
    return [
        _unbatch(tape, da, a, b, batch, vector_axis=-2),
        _unbatch(tape, db, b, a, batch, vector_axis=-1),
    ]


def _turn(tape: Tape, x: str, rank: int) -> str:
    return tape.op("Transpose", x, perm=[*range(rank - 2), rank - 1, rank - 2])


def _unbatch(tape: Tape, dx: str, x: str, other: str, batch: int, vector_axis: int) -> str:
    """Sum over the batch axes along which `x` was broadcast against `other`."""
    rank = tape.rank(x)
    if rank == 1:
        return tape.op("Squeeze", tape.sum(dx, range(batch)), tape.ints(vector_axis))
    lead = batch - (rank - 2)
    dx = tape.sum(dx, range(lead))
    sides, others = tape.dims(x)[:-2], tape.dims(other)[:-2]
    others = (1,) * (len(sides) - len(others)) + others[max(len(others) - len(sides), 0) :]
    pairs = list(zip(sides, others, strict=True))
    if any(not isinstance(a, int) and b != 1 and (a is None or a != b) for a, b in pairs):
        return tape.unbroadcast_at_run_time(dx, x)
    return tape.sum(dx, (), [axis for axis, (a, b) in enumerate(pairs) if a == 1 and b != 1])


@rules.add("Einsum")
def _einsum(tape: Tape, node: Node, dy: str) -> Cotangents:
    """The gradient of each operand is the product of dy with all other operands."""
    equation = node.attribute("equation").replace(" ", "")
    if "." in equation or "->" not in equation:
        raise UnsupportedOperatorError(f"the equation {equation!r} is not covered")
    left, result = equation.split("->")
    terms = left.split(",")
    dxs = []
    for i, term in enumerate(terms):
        others = [other for j, other in enumerate(terms) if j != i]
        if len(set(term)) < len(term) or set(term) - set(result + "".join(others)):
            raise UnsupportedOperatorError(f"the equation {equation!r} is not covered")
        tensors = [x for j, x in enumerate(node.inputs) if j != i]
        backward = f"{','.join([result, *others])}->{term}"
        dxs.append(tape.op("Einsum", dy, *tensors, equation=backward))
    return dxs

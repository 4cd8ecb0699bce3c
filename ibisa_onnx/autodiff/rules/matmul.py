"""Matrix products, determinants, and the discrete Fourier transform."""

from __future__ import annotations

import numpy as np
import onnx

from ibisa_onnx.autodiff.node import Node
from ibisa_onnx.autodiff.registry import Cotangents, Rules
from ibisa_onnx.autodiff.tape import Tape
from ibisa_onnx.autodiff.types import Dimension
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
    # A vector is a matrix of one row (left) or column (right), whose axis is dropped afterwards.
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
    """The gradient of each operand is the product of dy with all other operands.

    Of a diagonal, "ii", it is one of "ij" with the identity for another operand.
    """
    terms, result = _einsum_terms(tape, node)
    dxs = []
    for i, (x, given) in enumerate(zip(node.inputs, terms, strict=True)):
        others = [result, *(other for j, other in enumerate(terms) if j != i)]
        tensors = [dy, *(other for j, other in enumerate(node.inputs) if j != i)]
        term, pairs = _distinct(given, "".join([result, *terms]))
        for axis, pair in pairs.items():
            others.append(pair)
            tensors.append(_identity(tape, x, axis))
        for axis, letter in enumerate(term):
            if letter not in "".join(others):  # summed out: every element has the same gradient
                others.append(letter)
                tensors.append(_ones(tape, x, axis))
        dx = tape.op("Einsum", *tensors, equation=f"{','.join(others)}->{term}")
        stretched = _may_stretch(tape, node, terms, i)
        dxs.append(tape.unbroadcast_at_run_time(dx, x) if stretched else dx)
    return dxs


def _distinct(term: str, taken: str) -> tuple[str, dict[int, str]]:
    """Return a term without repeated letters, and the letters replaced by new ones, by axis."""
    written, pairs = "", dict[int, str]()
    for axis, letter in enumerate(term):
        if letter in written:
            spare = next(c for c in _LETTERS if c not in taken + written)
            pairs[axis] = letter + spare
            letter = spare
        written += letter
    return written, pairs


def _identity(tape: Tape, x: str, axis: int) -> str:
    """Built in float32: ONNX Runtime has no half-precision EyeLike."""
    side = tape.side(x, axis)
    square = tape.op("Concat", side, side, axis=0)
    blank = tape.op("Expand", tape.constant(np.zeros((1, 1), np.float32)), square)
    identity = tape.op("EyeLike", blank, dtype=onnx.TensorProto.FLOAT)
    return tape.op("Cast", identity, to=tape.type(x).elem)


def _einsum_terms(tape: Tape, node: Node) -> tuple[list[str], str]:
    """Return one letter per axis, including those of "..."; infer the result's axes if omitted."""
    equation = node.attribute("equation").replace(" ", "")
    left, arrow, result = equation.partition("->")
    terms = left.split(",")
    if not arrow:
        letters = [c for c in sorted(set(left)) if c.isalpha() and left.count(c) == 1]
        result = ("..." if "..." in left else "") + "".join(letters)
    spare = [c for c in _LETTERS if c not in equation]
    counts = [
        tape.rank(x) - len(term.replace("...", "")) if "..." in term else 0
        for x, term in zip(node.inputs, terms, strict=True)
    ]
    dots = spare[: max(counts)]
    written = [
        term.replace("...", "".join(dots[len(dots) - count :]))
        for term, count in zip(terms, counts, strict=True)
    ]
    return written, result.replace("...", "".join(dots))


_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def _ones(tape: Tape, x: str, axis: int) -> str:
    side = tape.op("Gather", tape.shape(x), tape.ints(axis))
    return tape.op("Expand", tape.scalar(1.0, x), side)


def _may_stretch(tape: Tape, node: Node, terms: list[str], i: int) -> bool:
    """Return whether an axis of length 1 of one operand may be broadcast against another's."""
    sides: dict[str, set[Dimension]] = {}
    for x, term in zip(node.inputs, terms, strict=True):
        for letter, side in zip(term, tape.dims(x), strict=True):
            sides.setdefault(letter, set()).add(side)
    return any(len(sides[letter]) > 1 or None in sides[letter] for letter in terms[i])


@rules.add("Det")
def _det(tape: Tape, node: Node, dy: str) -> Cotangents:
    """Cofactors: signed determinants of the matrix without one row and one column."""
    x, rank = node.input(0), tape.rank(node.input(0))
    n = tape.dims(x)[-1]
    if not isinstance(n, int) or not 2 <= n <= 8:
        raise UnsupportedOperatorError("only matrices of a fixed size from 2 to 8 are supported")
    kept = tape.constant(np.array([[i for i in range(n) if i != j] for j in range(n)]))
    minors = tape.op("Gather", tape.op("Gather", x, kept, axis=rank - 2), kept, axis=rank)
    batch = range(rank - 2)
    # [..., row, rows, column, columns] -> [..., row, column, rows, columns]
    order = [*batch, rank - 2, rank, rank - 1, rank + 1]
    cofactors = tape.op("Det", tape.op("Transpose", minors, perm=order))
    signs = np.array([[(-1) ** (i + j) for j in range(n)] for i in range(n)], tape.dtype(x))
    dy = tape.op("Unsqueeze", dy, tape.ints(-2, -1))
    return [tape.op("Mul", dy, tape.op("Mul", cofactors, signs))]


@rules.add("DFT", inputs=(0,))
def _dft(tape: Tape, node: Node, dy: str) -> Cotangents:
    """The transpose of a transform is the unscaled transform in the opposite direction.

    What is cut (the half that a one-sided transform leaves out, or samples beyond the length) is
    0, and what was not there (an imaginary part, samples that fill up the length) is dropped.
    """
    x, inverse = node.input(0), node.attribute("inverse", 0)
    axis = _dft_axis(tape, node)
    channels = tape.dims(x)[-1]
    if inverse and node.attribute("onesided", 0):
        return [_real_inverse(tape, node, dy, axis)]
    length = tape.side(x, axis)
    if node.input(1):
        length = tape.op("Reshape", node.input(1), tape.ints(1))
        length = tape.op("Cast", length, to=onnx.TensorProto.INT64)
    whole = _fit_axis(tape, dy, axis, length, tape.rank(x))
    dx = tape.op("DFT", whole, axis=axis, inverse=1 - inverse)
    scale = tape.op("Cast", length, to=tape.type(x).elem)
    dx = tape.op("Div" if inverse else "Mul", dx, scale)
    dx = _fit_axis(tape, dx, axis, tape.side(x, axis), tape.rank(x))
    if channels == 1:
        return [tape.op("Slice", dx, tape.ints(0), tape.ints(1), tape.ints(-1))]
    if channels != 2:
        raise UnsupportedOperatorError("it is unknown whether its input is complex")
    return [dx]


def _real_inverse(tape: Tape, node: Node, dy: str, axis: int) -> str:
    """Gradient of the half spectrum of a real signal: the transform of dy, divided by the length.

    All that comes again in the half left out, mirrored, counts twice.
    """
    x, y = node.input(0), node.outputs[0]
    if node.input(1):
        frequencies, whole = tape.dims(x)[axis], tape.dims(y)[axis]
        if not isinstance(whole, int) or whole // 2 + 1 != frequencies:
            # If some are cropped or missing, ONNX Runtime deviates from ONNX.
            raise UnsupportedOperatorError(
                "a one-sided inverse that crops or pads its input is not supported"
            )
    length = tape.side(y, axis)
    half = tape.op("DFT", dy, axis=axis, onesided=1)
    place = tape.count_up(tape.op("Gather", tape.op("Shape", half), tape.ints(axis)))
    mirrored = tape.op("Mod", tape.op("Neg", place), length)
    twice = tape.op("Not", tape.op("Equal", place, mirrored))
    real = [tape.op("Cast", v, to=tape.type(x).elem) for v in (twice, length)]
    weight = tape.op("Div", tape.op("Add", real[0], tape.scalar(1.0, x)), real[1])
    weight = tape.op("Reshape", weight, tape.ints(-1, *[1] * (tape.rank(x) - 1 - axis)))
    return tape.op("Mul", half, weight)


def _dft_axis(tape: Tape, node: Node) -> int:
    if node.opset < 20:
        axis = node.attribute("axis", 1)
    elif node.input(2):
        axis = int(tape.required(node.input(2), "axis").item())
    else:
        axis = -2
    return int(axis) % tape.rank(node.input(0))


def _fit_axis(tape: Tape, x: str, axis: int, length: str, rank: int) -> str:
    """Crop or zero-pad the end of one axis."""
    missing = tape.op("Sub", length, tape.op("Gather", tape.op("Shape", x), tape.ints(axis)))
    before, after = tape.ints(*[0] * (rank + axis)), [tape.ints(*[0] * (rank - 1 - axis))]
    pads = tape.op("Concat", before, missing, *after, axis=0)
    return tape.op("Pad", x, pads)

"""Elementwise arithmetic with broadcasting."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ibisa_onnx.autodiff.node import Node
from ibisa_onnx.autodiff.registry import Cotangents, Rules
from ibisa_onnx.autodiff.tape import Tape
from ibisa_onnx.autodiff.types import FLOATS
from ibisa_onnx.errors import UnsupportedOperatorError

rules = Rules()


def _reduced(tape: Tape, node: Node, *dxs: str) -> Cotangents:
    """Sum each gradient over the axes along which its input was broadcast."""
    pairs = zip(dxs, node.inputs, strict=True)
    return [tape.unbroadcast(dx, like=x, result=node.outputs[0]) for dx, x in pairs]


@rules.add("Add", "Sum")
def _add(tape: Tape, node: Node, dy: str) -> Cotangents:
    return _reduced(tape, node, *[dy] * len(node.inputs))


@rules.add("Mean")
def _mean(tape: Tape, node: Node, dy: str) -> Cotangents:
    share = tape.op("Mul", dy, tape.scalar(1 / len(node.inputs), node.outputs[0]))
    return _reduced(tape, node, *[share] * len(node.inputs))


@rules.add("Sub")
def _sub(tape: Tape, node: Node, dy: str) -> Cotangents:
    return _reduced(tape, node, dy, tape.op("Neg", dy))


@rules.add("Mul")
def _mul(tape: Tape, node: Node, dy: str) -> Cotangents:
    a, b = node.inputs
    return _reduced(tape, node, tape.op("Mul", dy, b), tape.op("Mul", dy, a))


@rules.add("Div")
def _div(tape: Tape, node: Node, dy: str) -> Cotangents:
    """d(a / b) = da / b - y db / b."""
    da = tape.op("Div", dy, node.input(1))
    return _reduced(tape, node, da, tape.op("Neg", tape.op("Mul", da, node.outputs[0])))


@rules.add("Mod")
def _mod(tape: Tape, node: Node, dy: str) -> Cotangents:
    """a - trunc(a / b) b, with a constant quotient, which is (a - y) / b, exactly an integer."""
    a, b = node.inputs
    quotient = tape.op("Div", tape.op("Sub", a, node.outputs[0]), b)
    return _reduced(tape, node, dy, tape.op("Neg", tape.op("Mul", dy, quotient)))


@rules.add("Pow")
def _pow(tape: Tape, node: Node, dy: str) -> Cotangents:
    """p x^(p-1) dx + x^p log(x) dp; the first term is 0 where p = 0, the second where x = 0."""
    x, y = node.input(0), node.outputs[0]
    exponent = tape.value(node.input(1))
    if exponent is not None and exponent.size == 1 and exponent.item() == 2:
        return _reduced(tape, node, tape.op("Mul", dy, tape.op("Add", x, x)), dy)[:1]
    p = node.input(1)
    if tape.type(p).elem != tape.type(x).elem:
        p = tape.op("Cast", p, to=tape.type(x).elem)
    zero = tape.scalar(0.0, x)
    slope = tape.op("Mul", p, tape.op("Pow", x, tape.op("Sub", p, tape.scalar(1.0, x))))
    if exponent is None or not np.all(exponent):
        slope = tape.op("Where", tape.op("Equal", p, zero), zero, slope)
    dx = tape.op("Mul", dy, slope)
    log = tape.op("Where", tape.op("Equal", x, zero), zero, tape.op("Log", x))
    return _reduced(tape, node, dx, tape.op("Mul", dy, tape.op("Mul", y, log)))


@rules.add("Max", "Min")
def _extremum(tape: Tape, node: Node, dy: str) -> Cotangents:
    """The first of the inputs that attain the extremum gets the whole gradient.

    Inputs are compared with each other: y may be rounded where they are not, as ONNX Runtime's CPU
    kernels compute halves in float32 as far as they can.
    """
    y, dxs = node.outputs[0], list[str]()
    compare = "GreaterOrEqual" if node.op_type == "Max" else "LessOrEqual"
    for place, x in enumerate(node.inputs[:-1], 1):
        others = node.inputs[place:]
        rest = others[0] if len(others) == 1 else tape.op(node.op_type, *others)
        dxs.append(tape.masked(dy, tape.op(compare, x, rest), y))
        dy = tape.op("Sub", dy, dxs[-1])
    return _reduced(tape, node, *dxs, dy)


@rules.add("Where")
def _where(tape: Tape, node: Node, dy: str) -> Cotangents:
    condition, zero = node.input(0), tape.scalar(0.0, node.outputs[0])
    taken = tape.op("Where", condition, dy, zero)
    other = tape.op("Where", condition, zero, dy)
    pairs = [(taken, node.input(1)), (other, node.input(2))]
    dxs = [tape.unbroadcast(d, like=x, result=node.outputs[0]) for d, x in pairs]
    tape.guarded.update(dxs)
    return [None, *dxs]


@rules.add("Identity", "Dropout", "Optional", "OptionalGetElement")
def _identity(tape: Tape, node: Node, dy: str) -> Cotangents:
    if node.input(2) and np.any(tape.required(node.input(2), "training mode")):
        raise UnsupportedOperatorError("training mode is not supported")
    return [dy]


@rules.add("Cast", "CastLike", inputs=(0,))
def _cast(tape: Tape, node: Node, dy: str) -> Cotangents:
    elem = tape.type(node.input(0)).elem
    if elem not in FLOATS:
        raise UnsupportedOperatorError("casts from this type have no gradient")
    dx = tape.op("Cast", dy, to=elem)
    if dy in tape.guarded:
        tape.guarded.add(dx)
    return [dx]


Derivative = Callable[[Tape, str, str], str]
"""dy/dx as a tensor, from the names of x and y."""


def _unary(derivative: Derivative) -> Callable[[Tape, Node, str], Cotangents]:
    def rule(tape: Tape, node: Node, dy: str) -> Cotangents:
        return [tape.op("Mul", dy, derivative(tape, node.input(0), node.outputs[0]))]

    return rule


def _one_and_square(tape: Tape, x: str, op_type: str) -> str:
    """1 + x^2 (Add) or 1 - x^2 (Sub)."""
    return tape.op(op_type, tape.scalar(1.0, x), tape.op("Mul", x, x))


def _inverse(tape: Tape, x: str, root: bool = False) -> str:
    return tape.op("Reciprocal", tape.op("Sqrt", x) if root else x)


@rules.add("Neg")
def _neg(tape: Tape, node: Node, dy: str) -> Cotangents:
    return [tape.op("Neg", dy)]


@rules.add("Log")
def _log(tape: Tape, node: Node, dy: str) -> Cotangents:
    return [tape.op("Div", dy, node.input(0))]


def _sqrt_derivative(tape: Tape, x: str, y: str) -> str:
    return tape.op("Div", tape.scalar(0.5, x), y)


def _erf_derivative(tape: Tape, x: str, y: str) -> str:
    """2 / sqrt(pi) exp(-x^2)."""
    bell = tape.op("Exp", tape.op("Neg", tape.op("Mul", x, x)))
    return tape.op("Mul", bell, tape.scalar(2 / np.sqrt(np.pi), x))


_DERIVATIVES: dict[str, Derivative] = {
    "Abs": lambda t, x, y: t.op("Sign", x),
    "Exp": lambda t, x, y: y,
    "Sqrt": _sqrt_derivative,
    "Reciprocal": lambda t, x, y: t.op("Neg", t.op("Mul", y, y)),
    "Erf": _erf_derivative,
    "Sin": lambda t, x, y: t.op("Cos", x),
    "Cos": lambda t, x, y: t.op("Neg", t.op("Sin", x)),
    "Tan": lambda t, x, y: _one_and_square(t, y, "Add"),
    "Sinh": lambda t, x, y: t.op("Cosh", x),
    "Cosh": lambda t, x, y: t.op("Sinh", x),
    "Asin": lambda t, x, y: _inverse(t, _one_and_square(t, x, "Sub"), root=True),
    "Acos": lambda t, x, y: t.op("Neg", _inverse(t, _one_and_square(t, x, "Sub"), root=True)),
    "Atan": lambda t, x, y: _inverse(t, _one_and_square(t, x, "Add")),
    "Asinh": lambda t, x, y: _inverse(t, _one_and_square(t, x, "Add"), root=True),
    "Acosh": lambda t, x, y: _inverse(t, t.op("Sinh", y)),
    "Atanh": lambda t, x, y: _inverse(t, _one_and_square(t, x, "Sub")),
}
for _name, _derivative in _DERIVATIVES.items():
    rules.add(_name)(_unary(_derivative))

"""Recurrent layers: LSTM, GRU and RNN, expanded as ONNX defines them.

What does not depend on the step before, the product of the whole sequence with W, is outside of the
loop; the loop is a Scan, so that the sequence may have any length, open or not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from ibisa_onnx.autodiff.node import Node
from ibisa_onnx.autodiff.registry import Rules
from ibisa_onnx.autodiff.scan import Track, write_scan
from ibisa_onnx.autodiff.tape import Tape
from ibisa_onnx.errors import UnsupportedOperatorError

rules = Rules()

# The activations that are operators, and their parameters.
_ACTIVATIONS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("Relu", "Tanh", "Sigmoid", "Softsign", "Softplus"), ()),
    **dict.fromkeys(("LeakyRelu", "Elu", "ThresholdedRelu"), ("alpha",)),
    "HardSigmoid": ("alpha", "beta"),
}


@dataclass(frozen=True)
class _Activation:
    """An operator and its attributes."""

    op_type: str
    attributes: dict[str, float]


@dataclass(frozen=True)
class _Layer:
    """One direction: its weights without the axis of directions, "" for omitted ones.

    `w` is [gates * hidden, inputs], `r` [gates * hidden, hidden], `peepholes` [3 * hidden]; of the
    biases, [gates * hidden], `b` goes with `w` and `rb` with `r`. `states` are the initial ones,
    [N, hidden].
    """

    w: str
    r: str
    b: str
    rb: str
    peepholes: str
    states: tuple[str, ...]
    activations: Sequence[_Activation]
    hidden: int

    def act(self, tape: Tape, place: int, x: str) -> str:
        """One of its activations."""
        chosen = self.activations[place]
        return tape.op(chosen.op_type, x, **chosen.attributes)


Step = Callable[[Sequence[str], Sequence[str]], Sequence[str]]
"""Writes the new states of a step, from its inputs and the previous states."""

Cell = Callable[[Tape, Node, _Layer, str], tuple[Sequence[str], Step]]
"""Writes a direction's product with the whole sequence [T, N, inputs], and returns its step.

Each sequence that it makes is [T, N, ...]; the step is given an element [N, ...] of each.
"""


@rules.expand("RNN")
def _rnn(tape: Tape, node: Node) -> Sequence[str]:
    return _recurrent(tape, node, ("Tanh",), 1, _rnn_cell)


@rules.expand("GRU")
def _gru(tape: Tape, node: Node) -> Sequence[str]:
    return _recurrent(tape, node, ("Sigmoid", "Tanh"), 1, _gru_cell)


@rules.expand("LSTM")
def _lstm(tape: Tape, node: Node) -> Sequence[str]:
    return _recurrent(tape, node, ("Sigmoid", "Tanh", "Tanh"), 2, _lstm_cell)


# -- the equations


def _rnn_cell(tape: Tape, node: Node, layer: _Layer, x: str) -> tuple[Sequence[str], Step]:
    """H' = f(W x + R H + b)."""

    def step(inputs: Sequence[str], states: Sequence[str]) -> Sequence[str]:
        return [layer.act(tape, 0, _recur(tape, states[0], layer.r, inputs[0]))]

    return [_project(tape, x, layer.w, layer.b, layer.rb)], step


def _lstm_cell(tape: Tape, node: Node, layer: _Layer, x: str) -> tuple[Sequence[str], Step]:
    """C' = f C + i g and H' = o tanh(C'), the gates in the order i, o, f, g."""
    peepholes = [""] * 3
    if layer.peepholes:
        peepholes = list(tape.ops("Split", 3, layer.peepholes, axis=0, num_outputs=3))

    def gate(x: str, peephole: str, c: str) -> str:
        seen = tape.op("Add", x, tape.op("Mul", c, peephole)) if peephole else x
        return layer.act(tape, 0, seen)

    def step(inputs: Sequence[str], states: Sequence[str]) -> Sequence[str]:
        h, c = states
        gates = _recur(tape, h, layer.r, inputs[0])
        i, o, f, g = tape.ops("Split", 4, gates, axis=-1, num_outputs=4)
        kept = tape.op("Mul", gate(f, peepholes[2], c), c)
        added = tape.op("Mul", gate(i, peepholes[0], c), layer.act(tape, 1, g))
        c = tape.op("Add", kept, added)
        return [tape.op("Mul", gate(o, peepholes[1], c), layer.act(tape, 2, c)), c]

    return [_project(tape, x, layer.w, layer.b, layer.rb)], step


def _gru_cell(tape: Tape, node: Node, layer: _Layer, x: str) -> tuple[Sequence[str], Step]:
    """H' = (1 - z) g + z H, the gates in the order z, r, g."""
    late = bool(node.attribute("linear_before_reset", 0))
    lengths = tape.ints(2 * layer.hidden, layer.hidden)
    (w, wg), (r, rg) = (tape.ops("Split", 2, v, lengths, axis=0) for v in (layer.w, layer.r))
    (b, bg), (rb, rbg) = ("", ""), ("", "")
    if layer.b:
        (b, bg), (rb, rbg) = (tape.ops("Split", 2, v, lengths, axis=0) for v in (layer.b, layer.rb))

    def step(inputs: Sequence[str], states: Sequence[str]) -> Sequence[str]:
        (h,) = states
        gates = layer.act(tape, 0, _recur(tape, h, r, inputs[0]))
        z, reset = tape.ops("Split", 2, gates, axis=-1, num_outputs=2)
        if late:
            recurred = tape.op("Mul", reset, _recur(tape, h, rg, rbg))
            g = layer.act(tape, 1, tape.op("Add", inputs[1], recurred))
        else:
            g = layer.act(tape, 1, _recur(tape, tape.op("Mul", reset, h), rg, inputs[1]))
        return [tape.op("Add", g, tape.op("Mul", z, tape.op("Sub", h, g)))]

    return [_project(tape, x, w, b, rb), _project(tape, x, wg, bg, "" if late else rbg)], step


def _project(tape: Tape, x: str, w: str, *biases: str) -> str:
    """All steps' inputs times W at once, plus the biases."""
    y = tape.op("MatMul", x, tape.op("Transpose", w, perm=[1, 0]))
    given = [bias for bias in biases if bias]
    if not given:
        return y
    return tape.op("Add", y, given[0] if len(given) == 1 else tape.op("Add", *given))


def _recur(tape: Tape, h: str, r: str, added: str) -> str:
    """The state times R, plus something."""
    return tape.op("Gemm", h, r, added or None, transB=1)


# -- what the three have in common


def _recurrent(
    tape: Tape, node: Node, activations: tuple[str, ...], states: int, cell: Cell
) -> Sequence[str]:
    """Run the cell in each direction; return Y, Y_h, and for an LSTM Y_c."""
    for name in ("clip", "input_forget"):
        if node.attribute(name):
            raise UnsupportedOperatorError(f"its attribute {name} is not supported")
    batched = node.attribute("layout", 0)
    x = tape.op("Transpose", node.input(0), perm=[1, 0, 2]) if batched else node.input(0)
    valid = _valid(tape, node, x)
    sequences, lasts = list[str](), list[tuple[str, ...]]()
    for place, layer in enumerate(_layers(tape, node, x, activations, states)):
        reverse = node.attribute("direction", "forward") == "reverse" or place == 1
        given, step = cell(tape, node, layer, x)
        sequence, last = _run(tape, node, layer, given, step, valid, int(reverse))
        sequences.append(tape.op("Unsqueeze", sequence, tape.ints(1)))
        lasts.append(last)
    y = tape.op("Concat", *sequences, axis=1)  # [T, directions, N, hidden]
    ends = [
        tape.op("Concat", *(tape.op("Unsqueeze", s, tape.ints(0)) for s in each), axis=0)
        for each in zip(*lasts, strict=True)
    ]
    if not batched:
        return [y, *ends]
    ends = [tape.op("Transpose", end, perm=[1, 0, 2]) for end in ends]
    return [tape.op("Transpose", y, perm=[2, 0, 1, 3]), *ends]


def _run(
    tape: Tape,
    node: Node,
    layer: _Layer,
    given: Sequence[str],
    step: Step,
    valid: str,
    reverse: int,
) -> tuple[str, tuple[str, ...]]:
    """Return the hidden states of all steps, and the final states.

    Where `valid` [T, N, 1] is false, a sequence has ended (or, in reverse, not begun).
    """
    states = {tape.fresh("state"): state for state in layer.states}
    slices = {Track(tape.fresh("slice"), 0, reverse): sequence for sequence in given}
    names = [track.name for track in slices]
    with tape.inside() as nodes:
        new = step(names, [*states])
        shown = new[0]
        if valid:
            now = Track(tape.fresh("valid"), 0, reverse)
            slices[now] = valid
            new = [tape.op("Where", now.name, *pair) for pair in zip(new, states, strict=True)]
            shown = tape.op("Where", now.name, shown, tape.scalar(0.0, node.input(0)))
        result = Track(tape.op("Identity", shown), 0, reverse)
    *last, sequence = write_scan(tape, nodes, states, slices, new, [result])
    return sequence, tuple(last)


def _valid(tape: Tape, node: Node, x: str) -> str:
    """Return which steps are within each sequence's length: [T, N, 1]; "" if all are."""
    lengths = node.input(4)
    value, steps = tape.value(lengths), tape.dims(node.input(0))[node.attribute("layout", 0)]
    if not lengths or (value is not None and np.all(value == steps)):
        return ""
    ends = tape.op("Cast", lengths, to=onnx.TensorProto.INT64)
    ends = tape.op("Unsqueeze", ends, tape.ints(0, 2))
    places = tape.count_up(tape.op("Gather", tape.op("Shape", x), tape.ints(0)))
    return tape.op("Less", tape.op("Unsqueeze", places, tape.ints(1, 2)), ends)


def _layers(
    tape: Tape, node: Node, x: str, activations: tuple[str, ...], states: int
) -> list[_Layer]:
    """Return the weights of each direction."""
    hidden = node.attribute("hidden_size") or tape.dims(node.input(2))[-1]
    if not isinstance(hidden, int):
        raise UnsupportedOperatorError("the size of its state is unknown")
    count = 2 if node.attribute("direction", "forward") == "bidirectional" else 1
    places = [1, 2, 3, *([7] if states == 2 else [])]
    weights = [_directions(tape, node.input(place), count) for place in places]
    starts = [_starts(tape, node, place, x, hidden, count) for place in (5, 6)[:states]]
    named = _activations(node, activations, count)
    layers = []
    for i in range(count):
        w, r, bias, *peepholes = (each[i] for each in weights)
        b, rb = tape.ops("Split", 2, bias, axis=0, num_outputs=2) if bias else ("", "")
        initial = tuple(start[i] for start in starts)
        layers.append(_Layer(w, r, b, rb, "".join(peepholes), initial, named[i], hidden))
    return layers


def _directions(tape: Tape, name: str, count: int) -> Sequence[str]:
    """Return the parts of a tensor along its first axis; "" for each if it is omitted."""
    if not name:
        return [""] * count
    parts = tape.ops("Split", count, name, axis=0, num_outputs=count) if count > 1 else [name]
    return [tape.op("Squeeze", part, tape.ints(0)) for part in parts]


def _starts(tape: Tape, node: Node, place: int, x: str, hidden: int, count: int) -> Sequence[str]:
    """Return the initial states of each direction; zeros if omitted."""
    given = node.input(place)
    if given:
        turned = node.attribute("layout", 0)
        given = tape.op("Transpose", given, perm=[1, 0, 2]) if turned else given
        return _directions(tape, given, count)
    batch = tape.op("Gather", tape.op("Shape", x), tape.ints(1))
    shape = tape.op("Concat", batch, tape.ints(hidden), axis=0)
    return [tape.op("Expand", tape.scalar(0.0, node.input(0)), shape)] * count


def _activations(
    node: Node, defaults: Sequence[str], count: int
) -> Sequence[Sequence[_Activation]]:
    """Return the activations of each direction, which consume the node's parameters in order."""
    given = [*node.attribute("activations", ())] or [*defaults] * count
    names = [name.decode() if isinstance(name, bytes) else name for name in given]
    spelt = {name.lower(): name for name in _ACTIVATIONS}
    for name in names:
        if name.lower() not in spelt:
            raise UnsupportedOperatorError(f"its activation {name} is not supported")
    numbers = {key: iter(node.attribute(f"activation_{key}", ())) for key in ("alpha", "beta")}
    chosen = []
    for name in (spelt[name.lower()] for name in names):
        drawn = {key: next(numbers[key], None) for key in _ACTIVATIONS[name]}
        chosen.append(_Activation(name, {k: v for k, v in drawn.items() if v is not None}))
    each = len(defaults)
    return [chosen[i * each : (i + 1) * each] for i in range(count)]

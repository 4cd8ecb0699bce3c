"""Scan: how to write one, read its body, and differentiate it.

The gradient is a second Scan, run in reverse. Each of its steps recomputes a step of the first from
its inputs and backpropagates through it. The states at the start of each step are obtained by
running the loop once more with these states as outputs. Nothing depends on the number of steps, so
the sequence length may be dynamic.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import onnx
from onnx import helper

from ibisa_onnx.autodiff.functions import declare_types, is_known
from ibisa_onnx.autodiff.graph import RANDOM
from ibisa_onnx.autodiff.node import Node, inner_graphs, prune
from ibisa_onnx.autodiff.registry import Cotangents
from ibisa_onnx.autodiff.tape import Tape
from ibisa_onnx.autodiff.types import FLOATS, OPSET, TensorType, value_info
from ibisa_onnx.autodiff.upgrade import Upgrade
from ibisa_onnx.errors import UnsupportedOperatorError

# Recomputing these would yield other values, or they are straight-through only outside a Scan.
_NOT_INSIDE = RANDOM | {"QuantizeLinear", "DynamicQuantizeLinear"}

Total = Callable[[str], str | None]
"""Returns the gradient of a tensor; None if there is none."""

Within = Callable[[Sequence[Node], set[str], dict[str, list[str]]], Total]
"""Backpropagates through nodes, given the tensors to differentiate and the results' cotangents."""


@dataclass(frozen=True)
class Track:
    """A sequence that a Scan reads or writes: name of an element inside, axis and direction."""

    name: str
    axis: int = 0
    reverse: int = 0

    def turned(self, name: str) -> Track:
        """Return the same positions of a sequence, for a Scan in the opposite direction."""
        return Track(name, self.axis, 1 - self.reverse)


def write_scan(
    tape: Tape,
    nodes: Sequence[Node],
    states: Mapping[str, str],
    slices: Mapping[Track, str],
    new_states: Sequence[str],
    results: Sequence[Track],
) -> tuple[str, ...]:
    """Write a Scan and return the names of its outputs: the final states, then the sequences.

    `states` maps states to their initial values, `slices` maps elements to the outer sequences.
    """
    written = [*new_states, *(track.name for track in results)]
    read = [*states, *(track.name for track in slices)]
    body = helper.make_graph(
        [node.proto for node in prune(nodes, written)],
        "step",
        [value_info(name, TensorType()) for name in read],
        [value_info(name, tape.type(name)) for name in written],
    )
    given = [*states.values(), *slices.values()]
    attributes = _attributes("input", slices) | _attributes("output", results)
    return tape.ops(
        "Scan", len(written), *given, body=body, num_scan_inputs=len(slices), **attributes
    )


def _attributes(side: str, tracks: Iterable[Track]) -> dict[str, list[int]]:
    pairs = {
        f"scan_{side}_axes": [track.axis for track in tracks],
        f"scan_{side}_directions": [track.reverse for track in tracks],
    }
    return {name: numbers for name, numbers in pairs.items() if any(numbers)}


# -- the inside


@dataclass(frozen=True)
class _Step:
    """The body of a Scan under unique names; `captured` are outer tensors."""

    nodes: tuple[Node, ...]
    states: tuple[str, ...]
    slices: tuple[Track, ...]
    new_states: tuple[str, ...]
    results: tuple[Track, ...]
    captured: tuple[str, ...]

    @property
    def given(self) -> tuple[str, ...]:
        """All outer tensors, in the order of the node's inputs and captured tensors."""
        return (*self.states, *(track.name for track in self.slices), *self.captured)


def _read_step(tape: Tape, node: Node) -> _Step:
    """Return the body of a Scan in the backward graph's opset, with types declared."""
    if node.opset < 9:
        raise UnsupportedOperatorError("Scan before opset 9 is not supported")
    body = node.attribute("body")
    names = {name: _lasting(tape, name) for name in node.captured}
    inner = [value.name for value in body.input] + [tensor.name for tensor in body.initializer]
    inner += [name for child in body.node for name in child.output if name]
    names |= {name: tape.fresh("step") for name in inner}
    nodes = tuple(_renamed(proto, names) for proto in _protos(tape, node))
    inputs, outputs = ([names[each.name] for each in side] for side in (body.input, body.output))
    count = len(inputs) - node.attribute("num_scan_inputs")
    slices, results = (
        _tracks(node, "input", inputs[count:]),
        _tracks(node, "output", outputs[count:]),
    )
    captured = tuple(names[name] for name in node.captured)
    step = _Step(nodes, tuple(inputs[:count]), slices, tuple(outputs[:count]), results, captured)
    for state, given in zip(step.states, node.inputs, strict=False):
        tape.declare(state, tape.type(given))
    for track, given in zip(slices, node.inputs[count:], strict=True):
        tape.declare(track.name, _without_axis(tape.type(given), track.axis))
    declare_types(tape, step.given, nodes)
    return step


def _lasting(tape: Tape, name: str) -> str:
    """Return a stable name for an outer tensor: a saved activation may be renamed."""
    if name not in tape.graph or name in tape.graph.constants:
        return name
    alias = tape.op("Identity", name)
    tape.declare(alias, tape.type(name))
    return alias


def _protos(tape: Tape, node: Node) -> Iterable[onnx.NodeProto]:
    """Return the body's nodes, including constants, in the backward graph's opset."""
    body = node.attribute("body")
    constants = [helper.make_node("Constant", [], [t.name], value=t) for t in body.initializer]
    protos = [*constants, *body.node]
    for proto in protos:
        if proto.op_type in _NOT_INSIDE or any(inner_graphs([proto])):
            raise UnsupportedOperatorError(f"{proto.op_type} inside it is not supported")
    return protos if node.opset >= OPSET else Upgrade(tape.graph, OPSET, tape.fresh).nodes(protos)


def _renamed(proto: onnx.NodeProto, names: Mapping[str, str]) -> Node:
    renamed = onnx.NodeProto()
    renamed.CopyFrom(proto)
    renamed.input[:] = [names.get(name, name) for name in proto.input]
    renamed.output[:] = [names.get(name, name) for name in proto.output]
    node = Node.read(renamed, {"": OPSET})
    if not is_known(node):
        raise UnsupportedOperatorError(f"{node.op_type} inside it is not supported")
    return node


def _tracks(node: Node, side: str, names: Sequence[str]) -> tuple[Track, ...]:
    axes = node.attribute(f"scan_{side}_axes", [0] * len(names))
    directions = node.attribute(f"scan_{side}_directions", [0] * len(names))
    return tuple(Track(*each) for each in zip(names, axes, directions, strict=True))


def _without_axis(kind: TensorType, axis: int) -> TensorType:
    if kind.dims is None:
        return kind
    dims = list(kind.dims)
    del dims[axis]
    return TensorType(kind.elem, tuple(dims))


# -- the gradient


def go_back(
    tape: Tape, node: Node, dys: Sequence[str | None], sources: set[str], within: Within
) -> Cotangents:
    """Return the gradients of a Scan's inputs, then of the tensors that its body captures.

    `sources` are the tensors whose gradient is required.

    Raises
    ------
    UnsupportedOperatorError
        An operator in the body is not supported.
    """
    step = _read_step(tape, node)
    outer = dict(zip(step.given, node.inputs + node.captured, strict=True))
    wanted = {name for name in step.given if outer[name] in sources}
    last = dict(zip(step.states, dys, strict=False))
    sequences = dict(zip(step.results, dys[len(step.states) :], strict=False))
    carried = {s: tape.fresh("cotangent") for s in step.states if tape.type(s).elem in FLOATS}
    read = {track: track.turned(tape.fresh("cotangent")) for track, dy in sequences.items() if dy}
    with tape.inside() as nodes:
        nodes.extend(step.nodes)
        total = within(step.nodes, wanted.union(carried), _seeds(step, carried, read))
        found = {name: dx for name in step.given if name in wanted and (dx := total(name))}
        sums = {name: tape.fresh("sum") for name in step.captured if name in found}
        new_states = [_result(tape, total(s) or tape.zeros(s), like=s) for s in carried]
        for name in sums:
            added = tape.op("Add", sums[name], found[name])
            new_states.append(_result(tape, added, like=name))
        cut = {t.name: t for t in step.slices if t.name in found}
        results = [t.turned(_result(tape, found[name], like=name)) for name, t in cut.items()]
    if not found:
        return []
    states = {carried[name]: last.get(name) or tape.zeros(outer[name]) for name in carried}
    states |= {sums[name]: tape.zeros(outer[name]) for name in sums}
    slices = {read[track]: dy for track, dy in sequences.items() if dy}
    slices |= {track.turned(track.name): outer[track.name] for track in step.slices}
    slices |= _entries(tape, step, outer)
    written = write_scan(tape, nodes, states, slices, new_states, results)
    gradients = dict(zip([*carried, *sums, *cut], written, strict=True))
    return [gradients[name] if name in found else None for name in step.given]


def _seeds(
    step: _Step, carried: Mapping[str, str], read: Mapping[Track, Track]
) -> dict[str, list[str]]:
    """Return the cotangents of a step's outputs: from the next step, and from outside."""
    seeds = defaultdict[str, list[str]](list)
    for state, new in zip(step.states, step.new_states, strict=True):
        if state in carried:
            seeds[new].append(carried[state])
    for track, turned in read.items():
        seeds[track.name].append(turned.name)
    return seeds


def _result(tape: Tape, value: str, like: str) -> str:
    """Write a tensor as a step's output, with its rank declared, which ONNX Runtime requires."""
    name = tape.op("Identity", value)
    sides = [side if isinstance(side, int) else None for side in tape.dims(like)]
    tape.declare(name, TensorType(tape.type(like).elem, tuple(sides)))
    return name


def _entries(tape: Tape, step: _Step, outer: Mapping[str, str]) -> dict[Track, str]:
    """Return the states at the start of each step, as sequences to be read in reverse."""
    if not step.states:
        return {}
    with tape.inside() as nodes:
        nodes.extend(step.nodes)
        tracks = [Track(_result(tape, state, like=state)) for state in step.states]
    states = {name: outer[name] for name in step.states}
    slices = {track: outer[track.name] for track in step.slices}
    written = write_scan(tape, nodes, states, slices, step.new_states, tracks)
    sequences = written[len(step.states) :]
    return {Track(name, reverse=1): s for name, s in zip(step.states, sequences, strict=True)}

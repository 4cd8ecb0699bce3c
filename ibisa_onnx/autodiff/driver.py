"""The driver: walks the graph backward, applies the rules, and settles what has to be saved."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import zip_longest

import numpy as np
import onnx
from onnx import helper, shape_inference

from ibisa_onnx.autodiff import scan
from ibisa_onnx.autodiff.assemble import assemble
from ibisa_onnx.autodiff.dequantise import dequantise
from ibisa_onnx.autodiff.functions import Body, expand_function, is_function, write_out
from ibisa_onnx.autodiff.graph import Graph
from ibisa_onnx.autodiff.node import Node, prune
from ibisa_onnx.autodiff.registry import FLAT, Cotangents
from ibisa_onnx.autodiff.rules import RULES
from ibisa_onnx.autodiff.tape import Tape
from ibisa_onnx.autodiff.types import FLOATS, OPSET, value_info
from ibisa_onnx.errors import GradientError, IbisaError, ModelError, UnsupportedOperatorError

# Their slope is infinite somewhere, and 0 times infinity is not the 0 that a mask stands for.
_STEEP = frozenset({"Sqrt", "Log", "Reciprocal", "Div", "Pow", "Asin", "Acos", "Acosh", "Atanh"})


@dataclass(frozen=True)
class Derivative:
    """A model's forward graph and the backward graph that belongs to it.

    Attributes
    ----------
    forward
        The deployed graph, pruned to what `output` needs; its outputs are `(output, *saved)`.
    backward
        Inputs `(cotangent, *saved)`, outputs `(gradient,)`.
    input, output
        What is differentiated with respect to, and what is differentiated.
    cotangent
        The backward graph's input that takes dL/d output, in `output`'s shape and dtype (float32
        if those are integers).
    gradient
        The backward graph's output, dL/d input, in `input`'s shape and dtype, likewise.
    saved
        The activations that go from the forward to the backward graph, under the same names.
    extra
        A second output of the backward graph, which `extra` of `differentiate` wrote; empty where
        there is none.
    real
        Which of `saved` is the counterpart of `output` in the float graph that is differentiated
        in place of a quantised one; empty where the deployed graph itself is.
    """

    forward: onnx.ModelProto
    backward: onnx.ModelProto
    input: str
    output: str
    cotangent: str
    gradient: str
    saved: tuple[str, ...]
    extra: str = ""
    real: str = ""


WithCotangent = Callable[[str], tuple[str, str] | None]
"""From a deployed tensor to its own counterpart in the graph that is differentiated, and its
cotangent there; None where it has none."""

ExtraOutput = Callable[[Tape, WithCotangent], str | None]
"""Writes more onto the tape and returns the tensor's name; None: nothing was written."""


@dataclass(frozen=True)
class MissingRule:
    """A node that the gradient cannot pass, and why."""

    node: str
    op_type: str
    domain: str
    why: str

    def __str__(self) -> str:
        domain = f"{self.domain}." if self.domain else ""
        return f"{domain}{self.op_type} {self.node!r}: {self.why}"


def differentiate(
    model: onnx.ModelProto, input: str, output: str, extra: ExtraOutput | None = None
) -> Derivative:
    """Build the graphs that compute an output and its vector-Jacobian product with an input.

    Parameters
    ----------
    model
        Any model of opset 7 or later; weights may be external, and stay so. Quantisers are passed
        straight through (see `dequantise`).
    input, output
        Names of an input, and of any tensor that depends on it. Integers (an image in bytes, a
        quantised output) are taken as real numbers, and have float32 gradients.
    extra
        What else the backward graph computes, of cotangents and activations.

    Raises
    ------
    UnsupportedOperatorError
        If an operator on the path has no rule, or no gradient reaches the input.
    ModelError
        If there is no such input or output.
    GradientError
        If the graph is so odd that the analysis trips over it.
    """
    with _refusing():
        graph = Graph(model, output)
        sweep = _sweep(graph, input)
        if sweep.missing:
            raise UnsupportedOperatorError(_refusal(sweep.missing, input, output))
        tape, source = sweep.tape, sweep.source
        gradient = tape.op("Identity", sweep.total(source))
        results = {gradient: tape.type(source)}
        more = (extra and extra(tape, sweep.with_cotangent)) or ""
        if more:
            results[more] = tape.type(more)
        real = "" if tape.graph.output == graph.output else tape.graph.output
        also = [real] if real else []
        forward, backward, saved = assemble(tape, graph, sweep.cotangent, results, also)
    names = (input, output, sweep.cotangent, gradient, saved, more, real)
    return Derivative(forward, backward, *names)


def missing_rules(model: onnx.ModelProto, input: str, output: str) -> tuple[MissingRule, ...]:
    """What stands in the way of `differentiate`; empty if nothing does. Reads no weights.

    Raises what `differentiate` raises, but for missing rules.
    """
    with _refusing():
        return tuple(_sweep(Graph(model, output, weights=False), input).missing)


@contextmanager
def _refusing() -> Iterator[None]:
    """Make a refusal of whatever an odd file makes the analysis trip over."""
    try:
        yield
    except IbisaError:
        raise
    except Exception as error:
        text = " ".join(str(error).split())[:200]
        raise GradientError(
            f"the graph cannot be analysed ({type(error).__name__}: {text})"
        ) from error


def _refusal(missing: Sequence[MissingRule], input: str, output: str) -> str:
    first = "; ".join(str(rule) for rule in missing[:3])
    more = f"; and {len(missing) - 3} more" if len(missing) > 3 else ""
    return f"no exact gradient of {output!r} with respect to {input!r}: {first}{more}"


# -- the sweep


@dataclass
class _Sweep:
    """One walk from the output back to the input, which is the source of all that is active."""

    tape: Tape
    active: set[str]
    source: str = ""
    reals: Mapping[str, str] = field(default_factory=dict)  # counterparts of deployed tensors
    cotangents: dict[str, list[str]] = field(default_factory=dict)
    missing: list[MissingRule] = field(default_factory=list)
    cotangent: str = ""
    origins: dict[str, Node] = field(default_factory=dict)  # of the tape's nodes, by their names

    def backpropagate(self, nodes: Sequence[Node]) -> None:
        for node in reversed(nodes):
            dys = [self.total(output) for output in node.outputs]
            if any(dys) and self.active.intersection(_sources(node)):
                self._apply(node, dys)

    def total(self, name: str) -> str | None:
        """The sum of what a tensor's readers passed back, or None if nobody did."""
        parts = self.cotangents.get(name, [])
        if len(parts) > 1:
            total = self.tape.op("Add" if len(parts) == 2 else "Sum", *parts)
            self.cotangents[name] = parts = [total]
        return parts[0] if parts else None

    def with_cotangent(self, name: str) -> tuple[str, str] | None:
        """A deployed tensor's counterpart and its cotangent, or None if nobody passed one back."""
        counterpart = self.reals.get(name, name)
        total = self.total(counterpart)
        return None if total is None else (counterpart, total)

    def _apply(self, node: Node, dys: Sequence[str | None]) -> None:
        self.tape.steep |= _is_steep(self.tape, node)
        begin = len(self.tape.nodes)
        try:
            dxs = self._cotangents(node, dys)
        except UnsupportedOperatorError as refusal:
            self.missing.append(_missing(node, str(refusal)))
            # Go on with any name, to find what else is missing; nothing is built from it.
            dxs = [next(dy for dy in dys if dy)] * len(node.inputs)
        self.origins |= {written.name: node for written in self.tape.nodes[begin:]}
        for x, dx in zip((*node.inputs, *node.captured), dxs, strict=False):
            if x in self.active and dx is not None:
                self.cotangents.setdefault(x, []).append(dx)

    def _cotangents(self, node: Node, dys: Sequence[str | None]) -> Cotangents:
        if (node.domain, node.op_type) == ("", "Scan"):
            return scan.go_back(self.tape, node, dys, self.active, self._within)
        if self.active.intersection(node.captured):
            raise UnsupportedOperatorError("the gradient of what its subgraphs read is not covered")
        expansion = RULES.expansion(node.op_type, node.domain)
        if expansion and (body := write_out(self.tape, node, expansion)):
            return self._through(body, node, dys)
        rule = RULES.get(node.op_type, node.domain)
        if rule is None:
            return self._through(expand_function(self.tape, node), node, dys)
        if not rule.several and (any(dys[1:]) or dys[0] is None):
            return self._beyond_rule(node, dys, "only the gradient of its first output is covered")
        dxs = rule.function(self.tape, node, dys if rule.several else dys[0])
        sources = _sources(node)
        for place, (x, dx) in enumerate(zip_longest(node.inputs, dxs)):
            if x in self.active and x in sources and dx is None:
                why = f"no rule for the gradient of input {place}"
                return self._beyond_rule(node, dys, why)
        return dxs

    def _beyond_rule(self, node: Node, dys: Sequence[str | None], why: str) -> Cotangents:
        """What a rule leaves out, by the operator's definition if it has one."""
        if not is_function(self.tape, node):
            raise UnsupportedOperatorError(why)
        return self._through(expand_function(self.tape, node), node, dys)

    def _through(self, body: Body, node: Node, dys: Sequence[str | None]) -> Cotangents:
        """Recompute an operator from its definition, and differentiate that.

        An input that gets None does not matter to the outputs asked for.
        """
        seeds: dict[str, list[str]] = {}
        for output, dy in zip(body.outputs, dys, strict=False):
            if dy is not None:
                if not output:
                    raise UnsupportedOperatorError("only the gradient of some outputs is covered")
                seeds[output] = [dy]
        total = self._within(body.nodes, self.active & set(node.inputs), seeds)
        totals = {x: total(x) for x in node.inputs if x in self.active}
        return [totals.pop(x, None) for x in node.inputs]  # a tensor given twice counts once

    def _within(
        self, nodes: Sequence[Node], sources: set[str], seeds: dict[str, list[str]]
    ) -> Callable[[str], str | None]:
        """Go back through the nodes that another consists of; what is returned tells gradients."""
        inner = _Sweep(self.tape, _active(self.tape, nodes, sources), cotangents=seeds)
        self.tape.active |= inner.active
        # Where they are a loop's, what comes last in a step is behind it in the next.
        self.tape.steep |= any(_is_steep(self.tape, node) for node in nodes)
        inner.backpropagate(nodes)
        if inner.missing:
            raise UnsupportedOperatorError(f"in its definition: {inner.missing[0]}")
        return inner.total


def _is_steep(tape: Tape, node: Node) -> bool:
    """Whether an operator's slope can be infinite."""
    if node.domain or node.op_type not in _STEEP:
        return False
    constant = tape.value(node.input(1))
    if node.op_type == "Div":
        return constant is None
    return node.op_type != "Pow" or constant is None or bool(np.any(constant < 1))


def _sources(node: Node) -> Sequence[str]:
    """The inputs that a gradient may flow back to."""
    rule = RULES.get(node.op_type, node.domain)
    if rule is None or rule.inputs is None:
        return node.uses
    return [node.input(i) for i in rule.inputs]


def _active(tape: Tape, nodes: Iterable[Node], sources: set[str]) -> set[str]:
    """The tensors through which a gradient may flow from the sources."""
    active = set(sources)
    for node in nodes:
        if node.op_type in FLAT or not active.intersection(_sources(node)):
            continue
        for output in node.outputs:
            elem = tape.type(output).elem
            if output and (elem is None or elem in FLOATS):
                active.add(output)
    return active


def _sweep(graph: Graph, input: str) -> _Sweep:
    known = [i.name for i in graph.inputs]
    if input not in known:
        raise ModelError(f"the model has no input {input!r}; choose one of: {', '.join(known)}")
    real = dequantise(graph, input)
    tape = Tape(real.graph)
    tape.active = active = _active(tape, real.graph.nodes, {real.input})
    sweep = _Sweep(tape, active, real.input, real.reals)
    sweep.missing.extend(_missing(node, why) for node, why in real.refused)
    if real.ends and not sweep.missing:
        sweep.missing.extend(_end(node) for node in real.ends)
    elif real.graph.output in active:
        sweep.cotangent = tape.fresh("cotangent")
        sweep.cotangents[real.graph.output] = [sweep.cotangent]
        sweep.backpropagate(real.graph.nodes)
    if not sweep.missing and not sweep.cotangents.get(real.input):
        sweep.missing.extend(_blocks(real.graph, real.input, active))
    if not sweep.missing and any(tape.type(x).elem == onnx.TensorProto.BFLOAT16 for x in active):
        sweep.missing.extend(_without_bfloat16(sweep))
    return sweep


def _without_bfloat16(sweep: _Sweep) -> list[MissingRule]:
    """The first node whose gradient needs an operator that takes bfloat16 in newer opsets only."""
    tape, gradient = sweep.tape, sweep.total(sweep.source) or ""
    nodes = prune(tape.nodes, [gradient])
    written = {name for node in nodes for name in node.outputs}
    read = dict.fromkeys(x for node in nodes for x in node.uses if x not in written)
    types = {
        x: tape.graph.type(tape.graph.output) if x == sweep.cotangent else tape.type(x)
        for x in read
    }
    graph = helper.make_graph(
        [node.proto for node in nodes],
        "backward",
        [value_info(x, kind) for x, kind in types.items()],
        [helper.make_empty_tensor_value_info(gradient)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
    try:
        shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    except shape_inference.InferenceError as error:
        found = re.search(r"op_type:(\w+), node name: ([^)]*)\)", str(error))
        if found is None or found[2] not in sweep.origins:
            raise
        why = f"its gradient needs {found[1]} in bfloat16, which opset {OPSET} does not have"
        return [_missing(sweep.origins[found[2]], why)]
    return []


def _end(node: Node) -> MissingRule:
    """A node whose output has no gradient; with advice where that is a choice among scores."""
    why = "its output has no gradient"
    if node.op_type in ("ArgMax", "ArgMin", "TopK", "NonMaxSuppression"):
        why += f", but the scores that it is given may: differentiate {node.input(0)!r}"
    return _missing(node, why)


def _blocks(graph: Graph, input: str, active: set[str]) -> list[MissingRule]:
    """The nodes at which the gradient's way from the input ends."""
    ends = [
        node
        for node in graph.nodes
        if active.intersection(node.uses) and not active.intersection(node.outputs)
    ]
    if not ends:
        return [MissingRule(graph.output, "output", "", f"does not depend on {input!r}")]
    return [_end(node) for node in ends]


def _missing(node: Node, why: str) -> MissingRule:
    return MissingRule(node.name, node.op_type, node.domain, why)

"""The driver: traverses the graph backward, applies the rules, and determines what to save."""

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
from ibisa_onnx.autodiff.registry import Cotangents, is_flat
from ibisa_onnx.autodiff.rules import RULES
from ibisa_onnx.autodiff.tape import Tape, UnknownTypeError
from ibisa_onnx.autodiff.types import FLOATS, OPSET, value_info
from ibisa_onnx.errors import GradientError, IbisaError, ModelError, UnsupportedOperatorError

# Operators with an infinite slope somewhere: 0 times infinity is NaN, where a mask requires 0.
_STEEP = frozenset({"Sqrt", "Log", "Reciprocal", "Div", "Pow", "Asin", "Acos", "Acosh", "Atanh"})


@dataclass(frozen=True)
class Derivative:
    """A model's forward graph and the matching backward graph.

    Attributes
    ----------
    forward
        The model's graph, pruned to `output`; its outputs are `(output, *saved)`.
    backward
        Graph with inputs `(cotangent, *saved)` and output `gradient`, followed by `extra` if set.
    input
        Name of the input with respect to which `output` is differentiated.
    output
        Name of the differentiated tensor.
    cotangent
        Name of the backward graph's input for dL/d output, in the shape and dtype of `output`
        (float32 if that is an integer type).
    gradient
        Name of the backward graph's output, dL/d input, in the shape and dtype of `input` (float32
        if that is an integer type).
    saved
        Names of the activations passed from the forward to the backward graph, the same in both.
    extra
        Name of a second output of the backward graph, written by the `extra` argument of
        `differentiate`; empty if there is none.
    real
        For a quantised model, the entry of `saved` that is the float counterpart of `output`; empty
        if the model's own graph is differentiated.
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
"""Function from a deployed tensor to its counterpart in the differentiated graph, and the cotangent
there; None if no cotangent reaches it."""

ExtraOutput = Callable[[Tape, WithCotangent], str | None]
"""Writes an additional tensor onto the tape and returns its name; None: nothing was written."""


@dataclass(frozen=True)
class MissingRule:
    """A node that prevents differentiation, and why.

    `str` returns text such as "com.microsoft.Foo 'node': no gradient rule for this operator".

    Attributes
    ----------
    node
        Name of the node, or of its first output if it has none.
    op_type
        The operator.
    domain
        The operator's domain; empty for ONNX's own.
    why
        The reason.
    """

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
    """Build the forward and backward graphs of an output with respect to an input.

    The backward graph computes the vector-Jacobian product. Quantisers are treated as
    straight-through, so the gradient of a quantised model is that of the float function that it
    approximates.

    Parameters
    ----------
    model
        A model of opset 7 or later. External weights remain external.
    input
        Name of an input. Integers, such as image bytes, are treated as real numbers and have
        float32 gradients.
    output
        Name of any tensor that depends on `input`, inner tensors included. Integers, such as
        quantised outputs, are treated as real numbers.
    extra
        Writes a second output of the backward graph, computed from cotangents and activations.

    Returns
    -------
    Derivative
        Both graphs, and the names of the tensors that connect them.

    Raises
    ------
    UnsupportedOperatorError
        An operator on the path has no gradient rule, or no gradient reaches the input.
    ModelError
        The model has no such input or output.
    GradientError
        The graph is malformed and cannot be analysed.
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
    """List the nodes that prevent differentiation, without reading weights.

    Parameters
    ----------
    model
        A model of opset 7 or later.
    input
        Name of an input.
    output
        Name of any tensor of the model.

    Returns
    -------
    tuple of MissingRule
        Empty if `differentiate` supports the model.

    Raises
    ------
    UnsupportedOperatorError
        The model has a sparse initializer.
    ModelError
        The model has no such input or output.
    GradientError
        The graph is malformed and cannot be analysed.
    """
    with _refusing():
        return tuple(_sweep(Graph(model, output, weights=False), input).missing)


@contextmanager
def _refusing() -> Iterator[None]:
    """Turn any error that a malformed file causes during analysis into a `GradientError`."""
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
    """One traversal from the output back to the input, the source of all active tensors."""

    tape: Tape
    active: set[str]
    source: str = ""
    reals: Mapping[str, str] = field(default_factory=dict)  # counterparts of deployed tensors
    cotangents: dict[str, list[str]] = field(default_factory=dict)
    missing: list[MissingRule] = field(default_factory=list)
    untyped: list[MissingRule] = field(default_factory=list)  # whose rules lack a type
    cotangent: str = ""
    origins: dict[str, Node] = field(default_factory=dict)  # of the tape's nodes, by their names

    def backpropagate(self, nodes: Sequence[Node]) -> None:
        for node in reversed(nodes):
            dys = [self.total(output) for output in node.outputs]
            if any(dys) and self.active.intersection(_sources(node)):
                self._apply(node, dys)

    def total(self, name: str) -> str | None:
        """Return the sum of the cotangents from a tensor's consumers; None if there are none."""
        parts = self.cotangents.get(name, [])
        if len(parts) > 1:
            total = self.tape.op("Add" if len(parts) == 2 else "Sum", *parts)
            self.cotangents[name] = parts = [total]
        return parts[0] if parts else None

    def with_cotangent(self, name: str) -> tuple[str, str] | None:
        """Return a deployed tensor's counterpart and its cotangent; None if there is none."""
        counterpart = self.reals.get(name, name)
        total = self.total(counterpart)
        return None if total is None else (counterpart, total)

    def _apply(self, node: Node, dys: Sequence[str | None]) -> None:
        self.tape.steep |= _is_steep(self.tape, node)
        begin = len(self.tape.nodes)
        try:
            dxs = self._cotangents(node, dys)
        except UnsupportedOperatorError as refusal:
            unknown = isinstance(refusal, UnknownTypeError)
            (self.untyped if unknown else self.missing).append(_missing(node, str(refusal)))
            # Continue with any name, to find other missing rules; nothing is built from it.
            dxs = [next(dy for dy in dys if dy)] * len(node.inputs)
        self.origins |= {written.name: node for written in self.tape.nodes[begin:]}
        for x, dx in zip((*node.inputs, *node.captured), dxs, strict=False):
            if x in self.active and dx is not None:
                self.cotangents.setdefault(x, []).append(dx)

    def _cotangents(self, node: Node, dys: Sequence[str | None]) -> Cotangents:
        if (node.domain, node.op_type) == ("", "Scan"):
            return scan.go_back(self.tape, node, dys, self.active, self._within)
        if self.active.intersection(node.captured):
            raise UnsupportedOperatorError(
                "gradients of tensors that its subgraphs capture are not supported"
            )
        expansion = RULES.expansion(node.op_type, node.domain)
        if expansion and (body := write_out(self.tape, node, expansion)):
            return self._through(body, node, dys)
        rule = RULES.get(node.op_type, node.domain)
        if rule is None:
            return self._through(expand_function(self.tape, node), node, dys)
        if not rule.several and (any(dys[1:]) or dys[0] is None):
            return self._beyond_rule(
                node, dys, "only the gradient of its first output is supported"
            )
        dxs = rule.function(self.tape, node, dys if rule.several else dys[0])
        sources = _sources(node)
        for place, (x, dx) in enumerate(zip_longest(node.inputs, dxs)):
            if x in self.active and x in sources and dx is None:
                why = f"no gradient rule for input {place}"
                return self._beyond_rule(node, dys, why)
        return dxs

    def _beyond_rule(self, node: Node, dys: Sequence[str | None], why: str) -> Cotangents:
        """Differentiate what a rule leaves out by the operator's definition, if it has one."""
        if not is_function(self.tape, node):
            raise UnsupportedOperatorError(why)
        return self._through(expand_function(self.tape, node), node, dys)

    def _through(self, body: Body, node: Node, dys: Sequence[str | None]) -> Cotangents:
        """Recompute an operator from its definition, and differentiate that.

        None for an input on which the requested outputs do not depend.
        """
        seeds: dict[str, list[str]] = {}
        for output, dy in zip(body.outputs, dys, strict=False):
            if dy is not None:
                if not output:
                    raise UnsupportedOperatorError(
                        "the gradient of only some of its outputs is supported"
                    )
                seeds[output] = [dy]
        total = self._within(body.nodes, self.active & set(node.inputs), seeds)
        totals = {x: total(x) for x in node.inputs if x in self.active}
        return [totals.pop(x, None) for x in node.inputs]  # a tensor given twice counts once

    def _within(
        self, nodes: Sequence[Node], sources: set[str], seeds: dict[str, list[str]]
    ) -> Callable[[str], str | None]:
        """Backpropagate through the nodes of an expanded operator; return a lookup of gradients."""
        inner = _Sweep(self.tape, _active(self.tape, nodes, sources), cotangents=seeds)
        self.tape.active |= inner.active
        # In a loop, the last node of a step precedes the first node of the next.
        self.tape.steep |= any(_is_steep(self.tape, node) for node in nodes)
        inner.backpropagate(nodes)
        if inner.missing:
            raise UnsupportedOperatorError(f"in its definition: {inner.missing[0]}")
        return inner.total


def _is_steep(tape: Tape, node: Node) -> bool:
    """Return whether an operator's slope can be infinite."""
    if node.domain or node.op_type not in _STEEP:
        return False
    constant = tape.value(node.input(1))
    if node.op_type == "Div":
        return constant is None
    return node.op_type != "Pow" or constant is None or bool(np.any(constant < 1))


def _sources(node: Node) -> Sequence[str]:
    """Return the inputs that a gradient may flow to."""
    rule = RULES.get(node.op_type, node.domain)
    if rule is None or rule.inputs is None:
        return node.uses
    return [node.input(i) for i in rule.inputs]


def _active(tape: Tape, nodes: Iterable[Node], sources: set[str]) -> set[str]:
    """Return the tensors through which a gradient may flow to the sources."""
    active = set(sources)
    for node in nodes:
        if is_flat(node.op_type, node.domain) or not active.intersection(_sources(node)):
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
        if sweep.untyped:
            sweep.missing.extend(_without_types(real.graph) or sweep.untyped)
    if not sweep.missing and not sweep.cotangents.get(real.input):
        sweep.missing.extend(_blocks(real.graph, real.input, active))
    if not sweep.missing and any(tape.type(x).elem == onnx.TensorProto.BFLOAT16 for x in active):
        sweep.missing.extend(_without_bfloat16(sweep))
    return sweep


def _without_bfloat16(sweep: _Sweep) -> list[MissingRule]:
    """Return the first node whose gradient requires an operator without bfloat16 in this opset."""
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
        why = f"its gradient requires {found[1]} in bfloat16, which opset {OPSET} does not support"
        return [_missing(sweep.origins[found[2]], why)]
    return []


def _without_types(graph: Graph) -> list[MissingRule]:
    """Return the nodes where types get lost: all inputs have one, and an output has none."""
    lost = []
    for node in graph.nodes:
        unknown = [name for name in node.outputs if name and graph.type(name).dims is None]
        if unknown and all(graph.type(name).dims is not None for name in node.uses):
            why = f"the type of its output {unknown[0]!r} is unknown; declare it in value_info"
            lost.append(_missing(node, why))
    return lost


def _end(node: Node) -> MissingRule:
    """Return the entry of a node whose output has no gradient, with advice if it selects scores."""
    why = "its output has no gradient"
    if node.op_type in ("ArgMax", "ArgMin", "TopK", "NonMaxSuppression"):
        why += f", but its input scores may: differentiate {node.input(0)!r}"
    return _missing(node, why)


def _blocks(graph: Graph, input: str, active: set[str]) -> list[MissingRule]:
    """Return the nodes that stop the gradient on every path to the input."""
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

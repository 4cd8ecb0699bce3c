"""Decoded nodes of an ONNX graph, and operations on nodes alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from typing import Any

import numpy as np
import onnx
from onnx import helper

from ibisa_onnx.autodiff.types import Array
from ibisa_onnx.errors import ModelError


@dataclass(frozen=True)
class Node:
    """One node, with its attributes decoded and the opset it is written in."""

    op_type: str
    domain: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    opset: int
    captured: tuple[str, ...] = ()
    proto: onnx.NodeProto = field(default_factory=onnx.NodeProto, repr=False, compare=False)

    @classmethod
    def read(cls, proto: onnx.NodeProto, opsets: Mapping[str, int]) -> Node:
        """Decode a NodeProto."""
        domain = "" if proto.domain == "ai.onnx" else proto.domain
        return cls(
            op_type=proto.op_type,
            domain=domain,
            name=proto.name or next((o for o in proto.output if o), ""),
            inputs=tuple(proto.input),
            outputs=tuple(proto.output),
            attributes={a.name: _decode(a) for a in proto.attribute if not a.ref_attr_name},
            opset=opsets.get(domain, 1),
            captured=tuple(sorted(_captured(proto))),
            proto=proto,
        )

    def attribute(self, name: str, default: Any = None) -> Any:
        """Return the attribute's value, or the default."""
        return self.attributes.get(name, default)

    def input(self, index: int) -> str:
        """Return the name of an input, or "" for an omitted optional one."""
        return self.inputs[index] if index < len(self.inputs) else ""

    @property
    def uses(self) -> tuple[str, ...]:
        """All tensors that the node reads, including those captured by its subgraphs."""
        return tuple(name for name in self.inputs if name) + self.captured


def _decode(attribute: onnx.AttributeProto) -> Any:
    value = helper.get_attribute_value(attribute)
    return value.decode(errors="surrogateescape") if isinstance(value, bytes) else value


def inner_graphs(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.GraphProto]:
    """Yield the subgraphs of nodes (If, Loop, Scan)."""
    for node in nodes:
        for attribute in node.attribute:
            yield from [attribute.g] if attribute.HasField("g") else []
            yield from attribute.graphs


def check_arity(nodes: Iterable[onnx.NodeProto], opsets: Mapping[str, int]) -> None:
    """Check the number of inputs and outputs of each operator, which ONNX's inference relies on.

    Raises
    ------
    ModelError
        An operator has an invalid number of inputs or outputs.
    """
    for node in nodes:
        check_arity((child for graph in inner_graphs([node]) for child in graph.node), opsets)
        domain = "" if node.domain == "ai.onnx" else node.domain
        opset = opsets.get(domain, 1)
        if not onnx.defs.has(node.op_type, opset, domain):
            continue
        schema = onnx.defs.get_schema(node.op_type, opset, domain)
        inputs, outputs = len(node.input), len(node.output)
        fits = schema.min_input <= inputs <= schema.max_input
        if not (fits and schema.min_output <= outputs <= schema.max_output):
            name = node.name or next(iter(node.output), "")
            raise ModelError(
                f"{node.op_type} {name!r} has {inputs} inputs and {outputs} outputs, which is "
                "invalid; export the model again"
            )


def _captured(node: onnx.NodeProto) -> set[str]:
    """Return the outer tensors that a node's subgraphs capture."""
    names: set[str] = set()
    for body in inner_graphs([node]):
        inner = {i.name for i in body.input} | {i.name for i in body.initializer}
        inner |= {name for child in body.node for name in child.output}
        used = {name for child in body.node for name in child.input}
        used |= {name for child in body.node for name in _captured(child)}
        used |= {output.name for output in body.output}
        names |= used - inner
    return names - {""}


def prune(nodes: Sequence[Node], wanted: Iterable[str]) -> list[Node]:
    """Return the nodes that `wanted` depends on, in their order."""
    needed = set(wanted)
    kept: list[Node] = []
    for node in reversed(nodes):
        if needed.intersection(node.outputs):
            needed.update(node.uses)
            kept.append(node)
    return kept[::-1]


def in_order(nodes: Sequence[Node]) -> list[Node]:
    """Return the nodes in topological order, which ONNX requires and some converters violate.

    Raises
    ------
    ModelError
        The graph has a cycle.
    """
    producers = {name: place for place, node in enumerate(nodes) for name in node.outputs if name}
    waits = {
        place: {producers[name] for name in node.uses if name in producers}
        for place, node in enumerate(nodes)
    }
    if all(before < place for place, befores in waits.items() for before in befores):
        return list(nodes)
    try:
        return [nodes[place] for place in TopologicalSorter(waits).static_order()]
    except CycleError as error:
        names = ", ".join(nodes[place].name for place in error.args[1][1:])
        raise ModelError(f"the nodes {names} form a cycle; export the model again") from error


_NEWER = 21


def opsets_of(imports: Iterable[onnx.OperatorSetIdProto]) -> dict[str, int]:
    """Return the opset version by domain, with the default domain as ""."""
    return {"" if o.domain == "ai.onnx" else o.domain: o.version for o in imports}


def evaluate(node: Node, feeds: Mapping[str, Array], opsets: Mapping[str, int]) -> list[Array]:
    """Compute one node with the reference implementation."""
    from onnx.reference import ReferenceEvaluator

    proto = node.proto
    if node.op_type == "DequantizeLinear":  # it supports newer versions only
        proto, opsets = onnx.NodeProto(), {"": _NEWER}
        proto.CopyFrom(node.proto)
        proto.domain = ""
    untyped = [helper.make_empty_tensor_value_info(name) for name in node.outputs if name]
    graph = helper.make_graph(
        [proto],
        "constant",
        [helper.make_empty_tensor_value_info(name) for name in feeds],
        untyped,
    )
    imports = [helper.make_opsetid(domain, version) for domain, version in opsets.items()]
    model = helper.make_model(graph, opset_imports=imports)
    computed = iter(ReferenceEvaluator(model).run(None, dict(feeds)))
    return [np.asarray(next(computed)) if name else np.empty(0) for name in node.outputs]

"""Operators defined in terms of others: their definitions, written onto the tape.

ONNX defines many operators as functions, and `definitions` defines those of ONNX Runtime. A few
others are expanded by functions in the rule families, which may query shapes on the tape.

The deployed graph keeps the operator itself; only its derivative goes through the definition, which
is recomputed in the backward graph from the operator's saved inputs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ibisa_onnx.autodiff.definitions import DEFINITIONS
from ibisa_onnx.autodiff.inference import infer_types, is_vector
from ibisa_onnx.autodiff.node import Node, evaluate, inner_graphs, opsets_of
from ibisa_onnx.autodiff.registry import Expansion
from ibisa_onnx.autodiff.tape import Tape
from ibisa_onnx.autodiff.types import OPSET, TensorType, value_info
from ibisa_onnx.errors import UnsupportedOperatorError

_ADVICE = {
    "com.microsoft.nchwc": "it was written by ONNX Runtime's optimiser for one type of processor; "
    "save the model with optimisation level extended or below"
}


@dataclass(frozen=True)
class Body:
    """The nodes of an expanded operator, and the names of its outputs."""

    nodes: tuple[Node, ...]
    outputs: tuple[str, ...]


def expand_function(tape: Tape, node: Node) -> Body:
    """Write an operator's definition onto the tape, with types declared.

    The operator's own outputs are not recomputed: the body's final nodes are not written, and their
    outputs are the operator's.

    Raises
    ------
    UnsupportedOperatorError
        There is no definition, or none for the backward graph's opset.
    """
    function, places = _definition(tape, node)
    names = _arguments(function, node)
    own = dict(zip(places, function.output, strict=True))
    names |= {own[i]: name for i, name in enumerate(node.outputs) if name and i in own}
    body = tuple(_instances(tape, function, node, names))
    for child in body:
        if not set(child.outputs) <= set(node.outputs):
            tape.write(child.proto)
    _declare(tape, node, body, function.opset_import)
    return Body(body, tuple(names.get(own.get(i, ""), "") for i in range(len(node.outputs))))


def write_out(tape: Tape, node: Node, expansion: Expansion) -> Body | None:
    """Let an expansion write an operator onto the tape; None if it does not apply."""
    start = len(tape.nodes)
    outputs = expansion(tape, node)
    if outputs is None:
        return None
    body = tuple(tape.nodes[start:])
    _declare(tape, node, body, [helper.make_opsetid("", OPSET)])
    return Body(body, tuple(outputs))


def is_function(tape: Tape, node: Node) -> bool:
    """Return whether the operator is defined in terms of others."""
    try:
        _definition(tape, node)
    except UnsupportedOperatorError:
        return False
    return True


def _arguments(function: onnx.FunctionProto, node: Node) -> dict[str, str]:
    names = dict(zip(function.input, node.inputs, strict=False))
    return names | dict.fromkeys(function.input[len(node.inputs) :], "")


def _instances(
    tape: Tape, function: onnx.FunctionProto, caller: Node, names: dict[str, str]
) -> Iterator[Node]:
    """Yield the nodes of a definition, expanding those that the backward graph does not support."""
    opsets = tape.graph.opsets | opsets_of(function.opset_import)
    for proto in function.node:
        child = Node.read(_instantiate(tape, proto, caller, names), opsets)
        if child.op_type != "Scan" and any(inner_graphs([child.proto])):
            raise UnsupportedOperatorError(f"its definition requires {child.op_type}")
        if is_known(child):
            yield child
            continue
        inner, _ = _definition(tape, child)
        renamed = _arguments(inner, child) | dict(zip(inner.output, child.outputs, strict=False))
        yield from _instances(tape, inner, child, renamed)


def _definition(tape: Tape, node: Node) -> tuple[onnx.FunctionProto, Sequence[int]]:
    """Return a function, and the indices of the node's outputs that it computes."""
    known = onnx.defs.has(node.op_type, node.opset, node.domain)
    definition = None if known else DEFINITIONS.define(node)
    if definition is not None:
        definition.check(node, tape.type)
        return definition.function, definition.outputs
    function = _from_schema(tape, node)
    return function, range(len(function.output))


def _from_schema(tape: Tape, node: Node) -> onnx.FunctionProto:
    """Return the definition in the operator's ONNX schema."""
    refusal = UnsupportedOperatorError(
        _ADVICE.get(node.domain, "no gradient rule for this operator")
    )
    try:
        schema: Any = onnx.defs.get_schema(node.op_type, node.opset, node.domain)
    except onnx.defs.SchemaError:
        raise refusal from None
    function = onnx.FunctionProto()
    if schema.has_function:
        function.ParseFromString(
            schema.get_function_with_opset_version(_version(schema.function_opset_versions, node))
        )
    elif schema.has_context_dependent_function:
        for x in node.inputs:
            if x and tape.type(x).elem is None:
                raise UnsupportedOperatorError(f"the type of {x!r} is unknown")
        types = [value_info(x, tape.type(x)).type.SerializeToString() for x in node.inputs]
        version = _version(schema.context_dependent_function_opset_versions, node)
        function.ParseFromString(
            schema.get_context_dependent_function_with_opset_version(
                version, node.proto.SerializeToString(), types
            )
        )
    else:
        raise refusal
    return function


def _version(versions: Sequence[int], node: Node) -> int:
    """Return the newest version up to the backward graph's opset, or the node's own."""
    return max((v for v in versions if v <= max(OPSET, node.opset)), default=versions[0])


def _instantiate(
    tape: Tape, child: onnx.NodeProto, caller: Node, names: dict[str, str]
) -> onnx.NodeProto:
    """Return a node of the definition with the caller's tensors and attributes substituted."""
    node = onnx.NodeProto(op_type=child.op_type, domain=child.domain)
    node.input.extend(names.get(name, "") for name in child.input)
    for name in child.output:
        if name not in names:
            names[name] = tape.fresh(name) if name else ""
        node.output.append(names[name])
    node.name = next(name for name in node.output if name)
    node.attribute.extend(_attributes(child, caller, names))
    return node


def _attributes(
    child: onnx.NodeProto, caller: Node, names: Mapping[str, str]
) -> Iterator[onnx.AttributeProto]:
    given = {a.name: a for a in caller.proto.attribute}
    for attribute in child.attribute:
        if attribute.HasField("g"):
            yield helper.make_attribute(attribute.name, _inside(attribute.g, caller, names))
        elif not attribute.ref_attr_name:
            yield attribute
        elif (value := _given(attribute.ref_attr_name, caller, given)) is not None:
            renamed = onnx.AttributeProto()
            renamed.CopyFrom(value)
            renamed.name = attribute.name
            yield renamed


def _inside(graph: onnx.GraphProto, caller: Node, names: Mapping[str, str]) -> onnx.GraphProto:
    """Return a subgraph of the definition with captured tensors substituted."""
    own = {each.name for each in (*graph.input, *graph.initializer)}
    own |= {name for child in graph.node for name in child.output}
    outer = {name: tensor for name, tensor in names.items() if name not in own}
    copy = onnx.GraphProto()
    copy.CopyFrom(graph)
    for node, child in zip(copy.node, graph.node, strict=True):
        node.input[:] = [outer.get(name, name) for name in child.input]
        del node.attribute[:]
        node.attribute.extend(_attributes(child, caller, outer))
    return copy


def _given(
    name: str, caller: Node, given: Mapping[str, onnx.AttributeProto]
) -> onnx.AttributeProto | None:
    if name in given:
        return given[name]
    schema = onnx.defs.get_schema(caller.op_type, caller.opset, caller.domain)
    default = schema.attributes[name].default_value
    return default if default.type else None


def is_known(child: Node) -> bool:
    """Return whether the backward graph's opset has this operator, with these attributes.

    A node written for another opset is accepted unless it has attributes that were added later or
    removed since.
    """
    try:
        ours = onnx.defs.get_schema(child.op_type, OPSET, child.domain)
    except onnx.defs.SchemaError:
        return False
    return child.attributes.keys() <= ours.attributes.keys()


def _declare(
    tape: Tape, node: Node, body: Sequence[Node], imports: Iterable[onnx.OperatorSetIdProto]
) -> None:
    known = {name for name in node.outputs if tape.type(name).dims is not None}
    declare_types(tape, node.inputs, body, imports, known)


def declare_types(
    tape: Tape,
    given: Iterable[str],
    body: Sequence[Node],
    imports: Iterable[onnx.OperatorSetIdProto] = (helper.make_opsetid("", OPSET),),
    known: Collection[str] = (),
) -> None:
    """Declare the types of what nodes compute from given tensors, except those in `known`."""
    given = set(given) - {""}
    skeleton = onnx.ModelProto(ir_version=10)
    opsets = tape.graph.opsets | opsets_of(imports)
    skeleton.opset_import.extend(helper.make_opsetid(*pair) for pair in opsets.items())
    constants = {x: tape.value(x) for x in given if is_vector(tape.type(x))}
    used = {x for child in body for x in child.uses}
    constants |= {x: tape.literals[x] for x in used - given if x in tape.literals}
    values = {x: value for x, value in constants.items() if value is not None}
    skeleton.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(values[x], order="C"), x) for x in sorted(values)
    )
    skeleton.graph.input.extend(value_info(x, tape.type(x)) for x in sorted(given - values.keys()))
    types, found = infer_types(skeleton, body)
    for child in body:
        if child.op_type == "Constant":
            found[child.outputs[0]] = evaluate(child, {}, {"": child.opset})[0]
        for name in child.outputs:
            if name not in known:
                tape.declare(name, types.get(name, TensorType()), found.get(name))

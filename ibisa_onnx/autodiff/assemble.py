"""From a complete tape to two models: what is saved, copied or dropped.

A backward graph reads three kinds of tensors that it does not compute: the cotangent, constants
(copied; references to external data remain references), and activations (saved by the forward
graph). If only an activation's shape or sign is needed, the forward graph computes and saves that
instead: a boolean mask is a quarter of the activation's size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ibisa_onnx.autodiff.graph import Graph
from ibisa_onnx.autodiff.node import Node, prune
from ibisa_onnx.autodiff.tape import Tape
from ibisa_onnx.autodiff.types import OPSET, TensorType, value_info

_IR_VERSION = 8


def assemble(
    tape: Tape,
    deployed: Graph,
    cotangent: str,
    results: Mapping[str, TensorType],
    also: Sequence[str] = (),
) -> tuple[onnx.ModelProto, onnx.ModelProto, tuple[str, ...]]:
    """Build the forward and the backward model; return them with the names of saved activations.

    The forward model computes the deployed graph's output and activations of the tape's graph, the
    backward model the tape's `results`. Activations in `also` are saved even if nothing reads them.
    """
    graph = tape.graph
    nodes, extra = _hoist(tape, prune(tape.nodes, list(results)))
    read = list(dict.fromkeys([*_unproduced(nodes, cotangent), *also]))
    constants = {name: c for name in read if (c := _constant(tape, name)) is not None}
    aliases = {
        name: tape.fresh("saved")
        for name in read
        if name not in constants
        and (name == deployed.output or name not in graph.producers)
        and name not in extra
    }
    saved = tuple(aliases.get(name, name) for name in read if name not in constants)
    types: dict[str, TensorType] = {}
    for name, node in extra.items():
        types[name] = _result_type(node, types.get(node.input(0)) or graph.type(node.input(0)))
    types |= {alias: tape.type(name) for name, alias in aliases.items()}
    handed = [value_info(name, types.get(name) or tape.type(name)) for name in saved]
    copies = [helper.make_node("Identity", [name], [alias]) for name, alias in aliases.items()]
    wanted = [*(node.proto for node in extra.values()), *copies]
    forward = _forward(tape, deployed, wanted, handed)
    backward = helper.make_graph(
        [_rename_inputs(node.proto, aliases) for node in nodes],
        "backward",
        [value_info(cotangent, graph.type(graph.output)), *handed],
        [value_info(name, kind) for name, kind in results.items()],
        list(constants.values()),
    )
    imports = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(backward, opset_imports=imports, ir_version=_IR_VERSION)
    return forward, model, saved


def _unproduced(nodes: Sequence[Node], cotangent: str) -> list[str]:
    produced = {name for node in nodes for name in node.outputs} | {cotangent}
    read = dict.fromkeys(name for node in nodes for name in node.uses)
    return [name for name in read if name not in produced]


def _constant(tape: Tape, name: str) -> onnx.TensorProto | None:
    """Return a constant as an initializer of the backward graph; None for an activation."""
    tensor: onnx.TensorProto | None = tape.graph.initializers.get(name)
    value = tape.value(name) if tensor is None else None
    return tensor if value is None else numpy_helper.from_array(np.asarray(value, order="C"), name)


def _hoist(tape: Tape, nodes: Sequence[Node]) -> tuple[list[Node], dict[str, Node]]:
    """Move shapes and masks to the forward graph; return the rest, and those moved by output."""
    graph = tape.graph
    contents = {name for node in nodes if node.op_type != "Shape" for name in node.uses}
    kept, hoisted = [], dict[str, Node]()
    for node in nodes:
        source = node.input(0)
        shape = node.op_type == "Shape" and source in graph and source not in contents
        given = all(x in graph or x in hoisted or tape.value(x) is not None for x in node.inputs)
        if shape or (given and _is_mask(node)):
            hoisted[node.outputs[0]] = node
        else:
            kept.append(node)
    return kept, hoisted


def _is_mask(node: Node) -> bool:
    """Return whether a node's result is boolean, and it is the same in every opset."""
    if node.op_type == "Cast":
        return bool(node.attribute("to") == onnx.TensorProto.BOOL)
    return node.op_type in ("Less", "Greater", "And", "Or", "Not")


def _result_type(node: Node, given: TensorType) -> TensorType:
    """Return the type of a shape or mask, given the type of its input."""
    if node.op_type == "Shape":
        return TensorType(
            onnx.TensorProto.INT64, (None if given.dims is None else len(given.dims),)
        )
    return TensorType(onnx.TensorProto.BOOL, given.dims)


def _forward(
    tape: Tape,
    deployed: Graph,
    extra: Sequence[onnx.NodeProto],
    handed: Sequence[onnx.ValueInfoProto],
) -> onnx.ModelProto:
    """Return the deployed graph, pruned to its output, with additional outputs."""
    graph = tape.graph
    wanted = [name for node in extra for name in node.input] + [info.name for info in handed]
    nodes = _together(deployed, graph, wanted)
    model = onnx.ModelProto(ir_version=max(graph.model.ir_version, 4))
    model.producer_name = graph.model.producer_name
    model.opset_import.extend(graph.imports)
    model.metadata_props.extend(graph.model.metadata_props)
    body = model.graph
    body.name = graph.model.graph.name or "forward"
    body.node.extend([*(node.proto for node in nodes), *extra])
    used = {name for node in body.node for name in node.input}
    used |= {name for node in nodes for name in node.captured}
    used -= {name for node in body.node for name in node.output}
    body.initializer.extend(t for t in graph.model.graph.initializer if t.name in used)
    body.initializer.extend(
        numpy_helper.from_array(value, name)
        for name, value in tape.literals.items()
        if name in used
    )
    body.input.extend(graph.inputs)
    output = deployed.output
    declared = next((o for o in graph.outputs if o.name == output), None)
    inferred = value_info(output, deployed.type(output))
    body.output.append(declared if declared and declared.HasField("type") else inferred)
    body.output.extend(handed)
    return model


def _together(deployed: Graph, graph: Graph, wanted: Sequence[str]) -> list[Node]:
    """Return the nodes that the deployed output and the wanted tensors of both graphs depend on."""
    if graph is deployed:
        return graph.nodes
    nodes = {node.outputs: node for node in (*deployed.nodes, *graph.nodes)}
    return prune(list(nodes.values()), [deployed.output, *wanted])


def _rename_inputs(node: onnx.NodeProto, names: Mapping[str, str]) -> onnx.NodeProto:
    if not names or not any(name in names for name in node.input):
        return node
    renamed = onnx.NodeProto()
    renamed.CopyFrom(node)
    renamed.input[:] = [names.get(name, name) for name in node.input]
    return renamed

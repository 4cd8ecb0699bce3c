"""From a full tape to two models: what is saved, what is copied, what is dropped.

A backward graph reads three kinds of tensors that it does not compute: the cotangent, constants
(copied, references to external data as they are), and activations (saved by the forward graph).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ibisa_onnx.autodiff.graph import Graph
from ibisa_onnx.autodiff.node import Node, prune
from ibisa_onnx.autodiff.tape import OPSET, Tape
from ibisa_onnx.autodiff.types import TensorType, value_info

_IR_VERSION = 8


def assemble(
    tape: Tape, cotangent: str, gradient: str, gradient_type: TensorType
) -> tuple[onnx.ModelProto, onnx.ModelProto, tuple[str, ...]]:
    """Build the forward and the backward model, and name what goes from one to the other."""
    graph = tape.graph
    nodes, extra = _hoist_shapes(graph, prune(tape.nodes, [gradient]))
    read = _unproduced(nodes, cotangent)
    constants = {name: c for name in read if (c := _constant(tape, name)) is not None}
    aliases = {
        name: tape.fresh("saved")
        for name in read
        if name not in constants
        and (name == graph.output or name not in graph.producers)
        and name not in extra
    }
    saved = tuple(aliases.get(name, name) for name in read if name not in constants)
    types = {name: TensorType(onnx.TensorProto.INT64, (None,)) for name in extra}
    types |= {alias: graph.type(name) for name, alias in aliases.items()}
    handed = [value_info(name, types.get(name) or graph.type(name)) for name in saved]
    copies = [helper.make_node("Identity", [name], [alias]) for name, alias in aliases.items()]
    forward = _forward(graph, [*extra.values(), *copies], handed)
    backward = helper.make_graph(
        [_rename_inputs(node.proto, aliases) for node in nodes],
        "backward",
        [value_info(cotangent, graph.type(graph.output)), *handed],
        [value_info(gradient, gradient_type)],
        list(constants.values()),
    )
    imports = [helper.make_opsetid("", OPSET)]
    return (
        forward,
        helper.make_model(backward, opset_imports=imports, ir_version=_IR_VERSION),
        saved,
    )


def _unproduced(nodes: Sequence[Node], cotangent: str) -> list[str]:
    produced = {name for node in nodes for name in node.outputs} | {cotangent}
    read = dict.fromkeys(name for node in nodes for name in node.uses)
    return [name for name in read if name not in produced]


def _constant(tape: Tape, name: str) -> onnx.TensorProto | None:
    """The constant as an initializer of the backward graph, or None for an activation."""
    tensor: onnx.TensorProto | None = tape.graph.initializers.get(name)
    value = tape.value(name) if tensor is None else None
    return tensor if value is None else numpy_helper.from_array(np.asarray(value, order="C"), name)


def _hoist_shapes(
    graph: Graph, nodes: Sequence[Node]
) -> tuple[list[Node], dict[str, onnx.NodeProto]]:
    """Take shapes in the forward graph where nothing else of the tensor is needed."""
    contents = {name for node in nodes if node.op_type != "Shape" for name in node.uses}
    kept, hoisted = [], {}
    for node in nodes:
        source = node.input(0)
        if node.op_type == "Shape" and source in graph and source not in contents:
            hoisted[node.outputs[0]] = node.proto
        else:
            kept.append(node)
    return kept, hoisted


def _forward(
    graph: Graph, extra: Iterable[onnx.NodeProto], handed: Sequence[onnx.ValueInfoProto]
) -> onnx.ModelProto:
    """The deployed graph, as far as `output` needs it, with more outputs."""
    model = onnx.ModelProto(ir_version=max(graph.model.ir_version, 4))
    model.producer_name = graph.model.producer_name
    model.opset_import.extend(graph.imports)
    model.metadata_props.extend(graph.model.metadata_props)
    body = model.graph
    body.name = graph.model.graph.name or "forward"
    body.node.extend([*(node.proto for node in graph.nodes), *extra])
    used = {name for node in body.node for name in node.input}
    used |= {name for node in graph.nodes for name in node.captured}
    body.initializer.extend(t for t in graph.model.graph.initializer if t.name in used)
    body.input.extend(graph.inputs)
    declared = next((o for o in graph.model.graph.output if o.name == graph.output), None)
    inferred = value_info(graph.output, graph.type(graph.output))
    body.output.append(declared if declared and declared.HasField("type") else inferred)
    body.output.extend(handed)
    return model


def _rename_inputs(node: onnx.NodeProto, names: Mapping[str, str]) -> onnx.NodeProto:
    if not names or not any(name in names for name in node.input):
        return node
    renamed = onnx.NodeProto()
    renamed.CopyFrom(node)
    renamed.input[:] = [names.get(name, name) for name in node.input]
    return renamed

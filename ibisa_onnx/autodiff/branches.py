"""Inlining of branches that are always taken: an If with a constant condition.

Exporters emit them when a shape that the file declares was unknown during tracing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import onnx
from onnx import helper

from ibisa_onnx.autodiff.node import Node
from ibisa_onnx.autodiff.types import Array


def inline_branches(
    nodes: Sequence[Node], value: Callable[[str], Array | None], opsets: Mapping[str, int]
) -> list[Node] | None:
    """Return the nodes with each such If replaced by its branch; None if there is none."""
    branches = [_taken(node, value) for node in nodes]
    if not any(branches):
        return None
    result: list[Node] = []
    for node, branch in zip(nodes, branches, strict=True):
        if branch is None:
            result.append(node)
        else:
            result.extend(Node.read(proto, opsets) for proto in _outside(node, branch))
    return result


def _taken(node: Node, value: Callable[[str], Array | None]) -> onnx.GraphProto | None:
    """Return the branch that an If always takes, if it can be inlined."""
    if (node.domain, node.op_type) != ("", "If"):
        return None
    condition = value(node.input(0))
    if condition is None:
        return None
    branch = node.attribute("then_branch" if condition.item() else "else_branch")
    nested = any(a.HasField("g") or a.graphs for child in branch.node for a in child.attribute)
    external = any(t.data_location == onnx.TensorProto.EXTERNAL for t in branch.initializer)
    return None if nested or external or branch.sparse_initializer else branch


def _outside(node: Node, branch: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Yield the branch's nodes under unique names, and its results under the If's names."""
    inner = [name for child in branch.node for name in child.output if name]
    inner += [tensor.name for tensor in branch.initializer]
    prefix = node.name or node.outputs[0]
    names = {name: f"{prefix}/{name}" for name in inner}
    for tensor in branch.initializer:
        yield helper.make_node("Constant", [], [names[tensor.name]], value=tensor)
    for child in branch.node:
        renamed = onnx.NodeProto()
        renamed.CopyFrom(child)
        renamed.input[:] = [names.get(name, name) for name in child.input]
        renamed.output[:] = [names.get(name, name) for name in child.output]
        yield renamed
    for output, name in zip(branch.output, node.outputs, strict=True):
        yield helper.make_node("Identity", [names.get(output.name, output.name)], [name])

"""`If` nodes that are settled before anything runs: the branch that is taken, in the node's place.

Older exporters write them where what a call means depends on the rank of its tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import onnx
from onnx import helper

from ibisa_onnx.autodiff.node import Node
from ibisa_onnx.autodiff.types import Array


def settle(
    nodes: Iterable[Node],
    value: Callable[[str], Array | None],
    opsets: Mapping[str, int],
) -> list[Node]:
    """The nodes, with each `If` of a known condition replaced by its branch's nodes."""
    settled, names = list[Node](), set[str]()
    for node in nodes:
        condition = value(node.input(0)) if node.op_type == "If" else None
        written = [] if condition is None else _branch(node, bool(condition.item()))
        inner = {name for proto in written for name in proto.output}
        if condition is None or inner & names:  # names that two branches share: left alone
            settled.append(node)
        else:
            settled.extend(Node.read(proto, opsets) for proto in written)
        names |= inner
    return settled


def _branch(node: Node, condition: bool) -> list[onnx.NodeProto]:
    body = node.attribute("then_branch" if condition else "else_branch")
    constants = [helper.make_node("Constant", [], [t.name], value=t) for t in body.initializer]
    pairs = zip(body.output, node.outputs, strict=True)
    copies = [helper.make_node("Identity", [inner.name], [outer]) for inner, outer in pairs]
    return [*constants, *body.node, *copies]

"""Questions to the nodes of an ONNX graph: which one makes a tensor, and what only hands it on."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

TRANSPARENT = frozenset(
    {"Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Cast", "Transpose", "Dropout"}
    | {"QuantizeLinear", "DequantizeLinear"}
)
"""Operators that hand values on, in another shape, order or dtype."""


def producer_of(
    name: str, graph: onnx.GraphProto, transparent: frozenset[str] = TRANSPARENT
) -> onnx.NodeProto | None:
    """Return the node that makes a tensor, apart from those that only hand it on, if one does."""
    producers = {output: node for node in graph.node for output in node.output}
    while name in producers and producers[name].op_type in transparent:
        name = producers[name].input[0]
    return producers.get(name)

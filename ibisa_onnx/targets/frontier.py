"""Dense tensors before the selection: what a graph's NMS, TopK or ArgMax chooses from.

If a graph selects, a lost box is a missing row, without a gradient. The tensors that the selecting
nodes read (the frontier) still hold a score for every anchor. Traced back through operators that
only pick or reorder, they are the raw predictions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

    Makers = Mapping[str, onnx.NodeProto]

SELECTING = frozenset(
    {"NonMaxSuppression", "TopK", "ArgMax", "ArgMin", "NonZero", "Compress", "Unique", "RoiAlign"}
    | {"EfficientNMS_TRT", "BatchedNMS_TRT"}
)
"""Operators that select: what they drop appears in none of their outputs."""

_LIFTING = frozenset(
    {"Gather", "GatherND", "GatherElements", "Slice", "Split", "Squeeze", "Unsqueeze", "Reshape"}
    | {"Transpose", "Flatten", "ReduceMax", "Max", "Greater", "GreaterOrEqual", "Less", "Clip"}
    | {"Cast", "Identity", "Shape", "Where", "QuantizeLinear", "DequantizeLinear", "Size"}
)
"""Operators that pick, reorder or compare values of their inputs."""

_SHAPES = frozenset({"Shape", "Size"})


def selects(graph: onnx.GraphProto) -> bool:
    """Return whether a graph selects among its predictions."""
    return any(node.op_type in SELECTING for node in _all_nodes(graph))


def before_selection(graph: onnx.GraphProto, image: str) -> tuple[str, ...]:
    """Return the names of the dense tensors that the prediction is selected from.

    Parameters
    ----------
    graph
        Graph of the model.
    image
        Name of the image input.

    Returns
    -------
    tuple of str
        In graph order; empty if the graph selects nothing.
    """
    makers = {name: node for node in graph.node for name in node.output}
    dependent, dirty = {image}, set[str]()
    frontier: dict[str, None] = {}
    for node in graph.node:
        read = list(_read(node))
        from_image = [name for name in read if name in dependent]
        if not from_image:
            continue
        chosen = node.op_type in SELECTING or any(
            inner.op_type in SELECTING for inner in _inner_nodes(node)
        )
        if chosen or dirty.intersection(read):
            clean = (name for name in from_image if name not in dirty and name != image)
            frontier |= dict.fromkeys(clean)
            dirty.update(node.output)
        if node.op_type not in _SHAPES:
            dependent.update(node.output)
    if not dirty:
        return ()
    outputs = [each.name for each in graph.output]
    left = [name for name in outputs if name in dependent and name not in dirty]
    seen = set[str]()
    lifted = dict.fromkeys(
        source for name in (*frontier, *left) for source in _lifted(name, makers, dependent, seen)
    )
    place = {name: number for number, name in enumerate(makers)}
    return tuple(sorted(lifted, key=lambda name: place.get(name, -1)))


def _lifted(name: str, makers: Makers, dependent: set[str], seen: set[str]) -> Iterator[str]:
    """Yield the tensors that a tensor was picked from; never the image, and none twice."""
    node = makers.get(name)
    if node is None or name in seen:
        return
    seen.add(name)
    if node.op_type not in _LIFTING:
        yield name
        return
    for each in node.input:
        if each in dependent:
            yield from _lifted(each, makers, dependent, seen)


def _read(node: onnx.NodeProto) -> Iterator[str]:
    """Yield the names that a node reads, including those in its subgraphs."""
    yield from node.input
    for inner in _inner_nodes(node):
        yield from inner.input


def _inner_nodes(node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    """Yield the nodes of a node's subgraphs, at any depth."""
    for attribute in node.attribute:
        graphs: Sequence[onnx.GraphProto] = (*attribute.graphs,)
        if attribute.HasField("g"):
            graphs = (attribute.g, *graphs)
        for graph in graphs:
            yield from _all_nodes(graph)


def _all_nodes(graph: onnx.GraphProto) -> Iterable[onnx.NodeProto]:
    for node in graph.node:
        yield node
        yield from _inner_nodes(node)

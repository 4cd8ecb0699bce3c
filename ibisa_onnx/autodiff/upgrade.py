"""Conversion of nodes to a newer opset, with the same results.

A model imports one version of each domain, so the nodes of a deployed graph and those of its
gradient can share a graph only at one opset. Most operators have only gained types since opset 7
and need no change; the few others are rewritten here, one function per kind of change. Other
changes are unsupported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import onnx
from onnx import helper

from ibisa_onnx.autodiff.graph import Graph
from ibisa_onnx.autodiff.node import Node, inner_graphs
from ibisa_onnx.errors import UnsupportedOperatorError


class Upgrade:
    """Converts nodes of `graph` to version `target` of the default domain.

    `fresh` returns names that no tensor has yet.
    """

    def __init__(self, graph: Graph, target: int, fresh: Callable[[str], str]) -> None:
        self.graph = graph
        self.fresh = fresh
        self._target = target

    def nodes(self, protos: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
        """Yield the nodes of the newer opset, in order.

        Raises
        ------
        UnsupportedOperatorError
            An operator has changed in an unsupported way; the message names the node.
        """
        for proto in protos:
            node = Node.read(proto, self.graph.opsets)
            if node.domain or node.opset >= self._target:
                yield proto
                continue
            before, rewrite = _CHANGES.get(node.op_type, (0, _as_it_is))
            changed = node.opset < before <= self._target
            written = rewrite(self, node) if changed else [proto]
            for each in written:
                self._check(node, each)
                yield self._with_inner_graphs(each)

    def refuse(self, node: Node, why: str) -> UnsupportedOperatorError:
        """Return the error for a node that cannot be converted."""
        return UnsupportedOperatorError(
            f"{node.op_type} {node.name!r} of opset {node.opset} cannot be converted to opset "
            f"{self._target}, which the gradient uses: {why}"
        )

    def _check(self, node: Node, proto: onnx.NodeProto) -> None:
        """Raise if the node is invalid in the newer opset."""
        try:
            schema = onnx.defs.get_schema(proto.op_type, self._target)
        except onnx.defs.SchemaError:
            raise self.refuse(node, "there is no such operator") from None
        unknown = {attribute.name for attribute in proto.attribute} - schema.attributes.keys()
        fits = schema.min_input <= len(proto.input) <= schema.max_input
        fits = fits and schema.min_output <= len(proto.output) <= schema.max_output
        if schema.deprecated or unknown or not fits:
            raise self.refuse(node, "the operator has changed")

    def _with_inner_graphs(self, proto: onnx.NodeProto) -> onnx.NodeProto:
        """Convert the nodes in a node's subgraphs (If, Loop, Scan)."""
        if not any(inner_graphs([proto])):
            return proto
        copy = onnx.NodeProto()
        copy.CopyFrom(proto)
        for graph in inner_graphs([copy]):
            written = list(self.nodes(graph.node))
            del graph.node[:]
            graph.node.extend(written)
        return copy


# -- one function per kind of change


def _as_it_is(_: Upgrade, node: Node) -> list[onnx.NodeProto]:
    return [node.proto]


def _rewritten(
    node: Node, inputs: Iterable[str], drop: Iterable[str] = (), **attributes: Any
) -> onnx.NodeProto:
    """Return the node with other inputs, some attributes dropped and others added."""
    proto = onnx.NodeProto(op_type=node.op_type, name=node.proto.name)
    proto.input.extend(inputs)
    proto.output.extend(node.outputs)
    dropped = {*drop, *attributes}
    proto.attribute.extend(a for a in node.proto.attribute if a.name not in dropped)
    proto.attribute.extend(helper.make_attribute(k, v) for k, v in attributes.items())
    return proto


def _constants(upgrade: Upgrade, **values: Any) -> tuple[list[onnx.NodeProto], list[str]]:
    """Return constant nodes, one per list of numbers, and their names."""
    names = [upgrade.fresh(hint) for hint in values]
    kinds = ["value_floats" if isinstance(v[0], float) else "value_ints" for v in values.values()]
    pairs = zip(names, kinds, values.values(), strict=True)
    return [helper.make_node("Constant", [], [n], **{kind: v}) for n, kind, v in pairs], names


def _attributes_to_inputs(*names: str) -> Callable[[Upgrade, Node], list[onnx.NodeProto]]:
    """Convert attributes, integers or lists of them, that became inputs after the first."""

    def rewrite(upgrade: Upgrade, node: Node) -> list[onnx.NodeProto]:
        values = {n: node.attributes[n] for n in names if node.attributes.get(n) is not None}
        lists = {n: v if isinstance(v, list) else [v] for n, v in values.items() if v != []}
        constants, inputs = _constants(upgrade, **lists)
        return [*constants, _rewritten(node, [*node.inputs, *inputs], names)]

    return rewrite


def _without(*names: str) -> Callable[[Upgrade, Node], list[onnx.NodeProto]]:
    """Drop attributes without effect at inference."""
    return lambda _, node: [_rewritten(node, node.inputs, names)]


def _scalar(upgrade: Upgrade, node: Node, value: float | None) -> tuple[list[onnx.NodeProto], str]:
    """Return a constant in the element type of the node's first input; no node and "" for None."""
    if value is None:
        return [], ""
    elem = upgrade.graph.type(node.input(0)).elem
    if elem is None:
        raise upgrade.refuse(node, "its element type is unknown")
    name = upgrade.fresh("value")
    tensor = helper.make_tensor(name, elem, [], [value])
    return [helper.make_node("Constant", [], [name], value=tensor)], name


def _clip(upgrade: Upgrade, node: Node) -> list[onnx.NodeProto]:
    low, minimum = _scalar(upgrade, node, node.attribute("min"))
    high, maximum = _scalar(upgrade, node, node.attribute("max"))
    return [*low, *high, _rewritten(node, [*node.inputs, minimum, maximum], ("min", "max"))]


def _dft(upgrade: Upgrade, node: Node) -> list[onnx.NodeProto]:
    constants, axis = _scalar_of_ints(upgrade, node.attribute("axis", 1))
    inputs = [node.input(0), node.input(1), axis]
    return [*constants, _rewritten(node, inputs, ("axis",))]


def _scalar_of_ints(upgrade: Upgrade, value: int) -> tuple[list[onnx.NodeProto], str]:
    name = upgrade.fresh("axis")
    return [helper.make_node("Constant", [], [name], value_int=value)], name


def _pad(upgrade: Upgrade, node: Node) -> list[onnx.NodeProto]:
    constants, pads = _constants(upgrade, pads=node.attribute("pads"))
    fill, value = _scalar(upgrade, node, node.attribute("value", 0.0) or None)
    return [*constants, *fill, _rewritten(node, [*node.inputs, *pads, value], ("pads", "value"))]


def _slice(upgrade: Upgrade, node: Node) -> list[onnx.NodeProto]:
    starts, ends = node.attribute("starts"), node.attribute("ends")
    axes = node.attribute("axes") or list(range(len(starts)))
    constants, inputs = _constants(upgrade, starts=starts, ends=ends, axes=axes)
    rewritten = _rewritten(node, [*node.inputs, *inputs], ("starts", "ends", "axes"))
    return [*constants, rewritten]


def _split(upgrade: Upgrade, node: Node) -> list[onnx.NodeProto]:
    if node.input(1):
        return [node.proto]
    if node.attribute("split"):
        return _attributes_to_inputs("split")(upgrade, node)
    return [_rewritten(node, [node.input(0)], num_outputs=len(node.outputs))]


def _softmax(upgrade: Upgrade, node: Node) -> list[onnx.NodeProto]:
    """Before opset 13, all axes from `axis` on were normalised together."""
    flat, soft, shape = (upgrade.fresh(hint) for hint in ("flat", "soft", "shape"))
    x, axis = node.input(0), node.attribute("axis", 1)
    return [
        helper.make_node("Flatten", [x], [flat], axis=axis),
        helper.make_node(node.op_type, [flat], [soft], name=node.proto.name, axis=1),
        helper.make_node("Shape", [x], [shape]),
        helper.make_node("Reshape", [soft, shape], list(node.outputs)),
    ]


def _resize(upgrade: Upgrade, node: Node) -> list[onnx.NodeProto]:
    """Before opset 11, coordinates were asymmetric, and nearest upsampling rounded down."""
    constants: list[onnx.NodeProto] = []
    scales = node.input(1)
    if not scales:
        constants, (scales,) = _constants(upgrade, scales=node.attribute("scales"))
    nearest = node.attribute("mode", "nearest") == "nearest"
    if node.op_type == "Resize" and nearest:
        value = upgrade.graph.value(scales)
        if value is None or not (value >= 1).all():
            raise upgrade.refuse(node, "it may downsample in mode nearest")
    rewritten = _rewritten(
        node,
        [node.input(0), "", scales],
        ("scales",),
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )
    rewritten.op_type = "Resize"
    return [*constants, rewritten]


def _batch_normalization(upgrade: Upgrade, node: Node) -> list[onnx.NodeProto]:
    if node.attribute("spatial", 1) != 1 or any(node.outputs[1:]):
        raise upgrade.refuse(node, "it is not spatial, or in training mode")
    rewritten = _rewritten(node, node.inputs, ("spatial",))
    del rewritten.output[1:]
    return [rewritten]


def _scatter(_: Upgrade, node: Node) -> list[onnx.NodeProto]:
    rewritten = _rewritten(node, node.inputs)
    rewritten.op_type = "ScatterElements"
    return [rewritten]


def _roi_align(_: Upgrade, node: Node) -> list[onnx.NodeProto]:
    mode = "output_half_pixel"
    return [_rewritten(node, node.inputs, coordinate_transformation_mode=mode)]


def _grid_sample(_: Upgrade, node: Node) -> list[onnx.NodeProto]:
    mode = node.attribute("mode", "bilinear")
    renamed = {"bilinear": "linear", "bicubic": "cubic"}.get(mode, mode)
    return [_rewritten(node, node.inputs, mode=renamed)]


def _refused(upgrade: Upgrade, node: Node) -> list[onnx.NodeProto]:
    raise upgrade.refuse(node, "the operator has changed")


_REDUCTIONS = (
    *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean"),
    *("ReduceMin", "ReduceProd", "ReduceSumSquare"),
)

# The opset since which the operator is unchanged, and how to convert older versions.
_CHANGES: dict[str, tuple[int, Callable[[Upgrade, Node], list[onnx.NodeProto]]]] = {
    **dict.fromkeys(_REDUCTIONS, (18, _attributes_to_inputs("axes"))),
    **dict.fromkeys(("ReduceSum", "Squeeze", "Unsqueeze"), (13, _attributes_to_inputs("axes"))),
    **dict.fromkeys(("Softmax", "LogSoftmax", "Hardmax"), (13, _softmax)),
    "BatchNormalization": (14, _batch_normalization),
    "Clip": (11, _clip),
    "DFT": (20, _dft),
    "Dropout": (12, _without("ratio")),
    "GridSample": (20, _grid_sample),
    "GroupNormalization": (21, _refused),
    "Pad": (11, _pad),
    "Resize": (11, _resize),
    "RoiAlign": (16, _roi_align),
    "Scan": (9, _refused),
    "Scatter": (11, _scatter),
    "Slice": (10, _slice),
    "Split": (18, _split),
    "TopK": (10, _attributes_to_inputs("k")),
    "Upsample": (10, _resize),
}

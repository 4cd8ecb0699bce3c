"""Resizing. Along each axis it is linear, so its own effect on the identity gives its matrix."""

from __future__ import annotations

import numpy as np
import onnx

from ibisa_onnx.autodiff.node import Node
from ibisa_onnx.autodiff.registry import Cotangents, Rules
from ibisa_onnx.autodiff.tape import Tape
from ibisa_onnx.errors import UnsupportedOperatorError

rules = Rules()
_PASSED_ON = (
    "antialias",
    "coordinate_transformation_mode",
    "cubic_coeff_a",
    "exclude_outside",
    "mode",
    "nearest_mode",
)


@rules.add("Resize", "Upsample")
def _resize(tape: Tape, node: Node, dy: str) -> Cotangents:
    """dx = R0^T dy R1 for each pair of resized axes, R as ONNX Runtime itself resizes."""
    x, rank = node.input(0), tape.rank(node.input(0))
    options = _options(node)
    scales, axes = _scales(tape, node, rank)
    for position, axis in enumerate(axes):
        if scales is not None and scales[position] == 1:
            continue
        if (
            tape.dims(x)[axis] is not None
            and tape.dims(x)[axis] == tape.dims(node.outputs[0])[axis]
        ):
            continue
        scale = None if scales is None else scales[position]
        matrix = _matrix(tape, x, node.outputs[0], axis, scale, options)
        dy = _along(tape, dy, matrix, axis, rank)
    return [dy]


def _options(node: Node) -> dict[str, object]:
    options = {name: node.attribute(name) for name in _PASSED_ON}
    if node.op_type == "Upsample" or node.opset < 11:
        options["coordinate_transformation_mode"] = "asymmetric"
        options["nearest_mode"] = "floor"
    transformation = options["coordinate_transformation_mode"]
    if transformation in ("tf_crop_and_resize", "half_pixel_symmetric"):
        raise UnsupportedOperatorError(f"{transformation} is not covered")
    if node.attribute("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise UnsupportedOperatorError("keep_aspect_ratio_policy is not covered")
    return options


def _scales(tape: Tape, node: Node, rank: int) -> tuple[list[float] | None, list[int]]:
    """The scale of each axis, or None where the node is given sizes; and the axes."""
    axes = [axis % rank for axis in node.attribute("axes", range(rank))]
    if "scales" in node.attributes:
        return list(node.attributes["scales"]), axes
    index = 1 if node.op_type == "Upsample" or node.opset < 11 else 2
    value = tape.value(node.input(index))
    if value is not None and value.size:
        return value.tolist(), axes
    if not node.input(3):
        raise UnsupportedOperatorError("its scales are computed at run time")
    return None, axes


def _matrix(
    tape: Tape, x: str, y: str, axis: int, scale: float | None, options: dict[str, object]
) -> str:
    """What the resize makes of the identity: [in, out], float32."""
    side, result = (_side(tape, name, axis) for name in (x, y))
    square = tape.op("Concat", side, side, axis=0)
    blank = tape.op("Expand", tape.constant(np.zeros((1, 1), np.float32)), square)
    identity = tape.op("EyeLike", blank, dtype=onnx.TensorProto.FLOAT)
    image = tape.op("Unsqueeze", identity, tape.ints(0, 1))
    if scale is not None:
        scales = tape.constant(np.array([1, 1, 1, scale], np.float32))
        resized = tape.op("Resize", image, None, scales, **options)
    else:
        sizes = tape.op("Concat", tape.ints(1, 1), side, result, axis=0)
        resized = tape.op("Resize", image, None, None, sizes, **options)
    matrix = tape.op("Squeeze", resized, tape.ints(0, 1))
    return tape.op("Cast", matrix, to=tape.type(x).elem)


def _side(tape: Tape, name: str, axis: int) -> str:
    side = tape.dims(name)[axis]
    if isinstance(side, int):
        return tape.ints(side)
    return tape.op("Gather", tape.shape(name), tape.ints(axis))


def _along(tape: Tape, dy: str, matrix: str, axis: int, rank: int) -> str:
    """Apply the transpose of the resize along one axis."""
    if axis == rank - 1:
        return tape.op("MatMul", dy, tape.op("Transpose", matrix, perm=[1, 0]))
    if axis == rank - 2:
        return tape.op("MatMul", matrix, dy)
    order = list(range(rank))
    order[axis], order[-1] = order[-1], order[axis]
    turned = tape.op("Transpose", dy, perm=order)
    return tape.op("Transpose", _along(tape, turned, matrix, rank - 1, rank), perm=order)

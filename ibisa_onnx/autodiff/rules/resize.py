"""Resizing, which is linear along each axis: resizing the identity yields its matrix."""

from __future__ import annotations

from collections.abc import Sequence

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
    """dx = R0^T dy R1 for each pair of resized axes, with R computed by ONNX Runtime's Resize."""
    x, y, rank = node.input(0), node.outputs[0], tape.rank(node.input(0))
    axes = [axis % rank for axis in node.attribute("axes", range(rank))]
    scales = _scales(tape, node, axes)
    known = None if scales is None else tape.value(scales)
    for place, axis in enumerate(axes):
        factor = None if known is None else float(known[place])
        roi = _roi(tape, node, place, len(axes))
        if roi is None and (factor == 1 or (scales is None and _same_side(tape, x, y, axis))):
            continue
        scale = None
        if scales is not None:
            scale = tape.op("Slice", scales, tape.ints(place), tape.ints(place + 1))
        matrix = _matrix(tape, (x, y), axis, scale, roi, **_options(node, factor))
        dy = _along(tape, dy, matrix, axis, rank)
    nearest = (
        node.attribute("mode", "nearest") == "nearest"
    )  # piecewise constant in everything else
    others = node.inputs[1:]
    return [dy, *(tape.zeros(x) if nearest and x in tape.active else None for x in others)]


def _same_side(tape: Tape, x: str, y: str, axis: int) -> bool:
    side = tape.dims(x)[axis]
    return side is not None and side == tape.dims(y)[axis]


def _options(node: Node, factor: float | None) -> dict[str, object]:
    options = {name: node.attribute(name) for name in _PASSED_ON}
    if node.op_type == "Upsample" or node.opset < 11:
        options["coordinate_transformation_mode"] = "asymmetric"
        options["nearest_mode"] = "floor"
        if node.op_type == "Resize" and node.attribute("mode", "nearest") == "nearest":
            if factor is None:
                raise UnsupportedOperatorError(
                    "nearest scales of opset 10 that are computed at run time are not supported"
                )
            options["nearest_mode"] = "ceil" if factor < 1 else "floor"
    return options


def _scales(tape: Tape, node: Node, axes: Sequence[int]) -> str | None:
    """Return the scale of each axis, float32; None if the node has sizes."""
    if "scales" in node.attributes:
        return tape.constant(np.array(node.attributes["scales"], np.float32))
    if node.attribute("keep_aspect_ratio_policy", "stretch") != "stretch" and node.input(3):
        return _scales_that_keep_the_aspect(tape, node, axes)
    scales = node.input(1 if node.op_type == "Upsample" or node.opset < 11 else 2)
    value = tape.value(scales)
    absent = not scales or (value is not None and not value.size)
    return None if absent or tape.type(scales).static == (0,) else scales


def _scales_that_keep_the_aspect(tape: Tape, node: Node, axes: Sequence[int]) -> str:
    """Return one scale for all axes, the smallest or largest of any axis."""
    x, sizes = node.input(0), tape.value(node.input(3))
    sides = [side for axis in axes if isinstance(side := tape.dims(x)[axis], int)]
    if sizes is None or len(sides) < len(axes):
        raise UnsupportedOperatorError(
            "keep_aspect_ratio_policy with a dynamic image size is not supported"
        )
    ratios = np.asarray(sizes, np.float32) / np.array(sides, np.float32)
    larger = node.attributes["keep_aspect_ratio_policy"] == "not_smaller"
    scale = ratios.max() if larger else ratios.min()
    reached = np.array(sides, np.float32) * scale
    # Resize rounds these sizes, and truncates those given by a scale.
    if np.any(reached % 1 >= 0.5):
        raise UnsupportedOperatorError(
            "keep_aspect_ratio_policy that rounds a size up is not supported"
        )
    return tape.constant(np.full(len(axes), scale, np.float32))


def _roi(tape: Tape, node: Node, place: int, count: int) -> str | None:
    """Return the region of interest of an image of which only the last axis is resized."""
    if node.attribute("coordinate_transformation_mode") != "tf_crop_and_resize":
        return None
    roi = tape.op("Cast", node.input(1), to=onnx.TensorProto.FLOAT)
    bounds = [tape.op("Slice", roi, tape.ints(i), tape.ints(i + 1)) for i in (place, count + place)]
    first, last = (tape.constant(np.full(3, value, np.float32)) for value in (0, 1))
    return tape.op("Concat", first, bounds[0], last, bounds[1], axis=0)


def _matrix(
    tape: Tape,
    ends: tuple[str, str],
    axis: int,
    scale: str | None,
    roi: str | None,
    **options: object,
) -> str:
    """Resize the identity matrix: [in, out].

    half_pixel_symmetric is younger than this graph's opset, but ONNX Runtime has it at every one.
    """
    side, result = (tape.side(name, axis) for name in ends)
    square = tape.op("Concat", side, side, axis=0)
    blank = tape.op("Expand", tape.constant(np.zeros((1, 1), np.float32)), square)
    identity = tape.op("EyeLike", blank, dtype=onnx.TensorProto.FLOAT)
    image = tape.op("Unsqueeze", identity, tape.ints(0, 1))
    if scale is not None:
        scales = tape.op("Concat", tape.constant(np.ones(3, np.float32)), scale, axis=0)
        resized = tape.op("Resize", image, roi, scales, **options)
    else:
        sizes = tape.op("Concat", tape.ints(1, 1), side, result, axis=0)
        resized = tape.op("Resize", image, roi, None, sizes, **options)
    matrix = tape.op("Squeeze", resized, tape.ints(0, 1))
    return tape.op("Cast", matrix, to=tape.type(ends[0]).elem)


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

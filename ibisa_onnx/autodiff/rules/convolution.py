"""Convolutions and transposed convolutions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ibisa_onnx.autodiff.node import Node
from ibisa_onnx.autodiff.registry import Cotangents, Rules
from ibisa_onnx.autodiff.tape import Tape
from ibisa_onnx.autodiff.windows import Windows
from ibisa_onnx.errors import UnsupportedOperatorError

rules = Rules()


@rules.add("Conv")
def _conv(tape: Tape, node: Node, dy: str) -> Cotangents:
    windows = Windows.read(tape, node, _kernel(tape, node))
    group = node.attribute("group", 1)
    dx = dw = db = None
    if node.input(0) in tape.active:
        dx = _conv_input(tape, windows, dy, node.input(1), group)
    if node.input(1) in tape.active:
        pads = [*windows.before, *windows.after]
        dw = _conv_kernel(tape, node, node.input(0), dy, pads)
    if node.input(2) in tape.active:
        db = _conv_bias(tape, node, dy)
    return [dx, dw, db]


def _conv_input(tape: Tape, windows: Windows, dy: str, w: str, group: int) -> str:
    """Transpose of a convolution with the kernel: another convolution if possible."""
    if all(stride == 1 for stride in windows.strides) and min(windows.transposed_pads) >= 0:
        kernel = _transposed(tape, w, windows.kernel, group)
        return tape.op(
            "Conv",
            dy,
            kernel,
            group=group,
            pads=windows.transposed_pads,
            dilations=windows.dilations,
        )
    return windows.scatter(tape, dy, w, group)


def _conv_kernel(tape: Tape, node: Node, x: str, dy: str, pads: Sequence[int]) -> str:
    """dw[m, c, k] = sum over n and o of dy[n, m, o] x[n, c, o stride + k dilation].

    That is a convolution of x with dy, in which the batch takes the place of the channels, and
    strides and dilations change places.
    """
    kernel, group = _kernel(tape, node), node.attribute("group", 1)
    spatial = list(range(2, 2 + len(kernel)))
    turn = [1, 0, *spatial]
    if group > 1:
        parts = tape.ops("Split", group, x, axis=1, num_outputs=group)
        x = tape.op("Concat", *parts, axis=0)
    channels, filters = (tape.op("Transpose", v, perm=turn) for v in (x, dy))
    dw = tape.op(
        "Conv",
        channels,
        filters,
        group=group,
        pads=pads,
        strides=node.attribute("dilations"),
        dilations=node.attribute("strides"),
    )
    # If the windows do not cover the whole image, taps beyond the kernel are computed as well.
    zeros = tape.ints(*[0] * len(kernel))
    dw = tape.op("Slice", dw, zeros, tape.ints(*kernel), tape.ints(*spatial))
    return tape.op("Transpose", dw, perm=turn)


def _conv_bias(tape: Tape, node: Node, dy: str) -> str:
    return tape.sum(dy, [0, *range(2, 2 + len(_kernel(tape, node)))])


@rules.add("ConvTranspose")
def _conv_transpose(tape: Tape, node: Node, dy: str) -> Cotangents:
    """A transposed convolution is the gradient of the convolution with the same kernel."""
    x, w = node.input(0), node.input(1)
    dx = dw = db = None
    pads = _pads_of_transpose(tape, node)
    read, pads = _without_negative(tape, dy, pads)
    if x in tape.active:
        attributes = {key: node.attribute(key) for key in ("strides", "dilations", "group")}
        dx = tape.op("Conv", read, w, pads=pads, **attributes)
    if w in tape.active:
        dw = _conv_kernel(tape, node, read, x, pads)
    if node.input(2) in tape.active:
        db = _conv_bias(tape, node, dy)
    return [dx, dw, db]


def _without_negative(tape: Tape, dy: str, pads: list[int]) -> tuple[str, list[int]]:
    """Crop by negative padding, which a convolution does not accept."""
    cut, n = [min(pad, 0) for pad in pads], len(pads) // 2
    if any(cut):
        dy = tape.op("Pad", dy, tape.ints(0, 0, *cut[:n], 0, 0, *cut[n:]))
    return dy, [max(pad, 0) for pad in pads]


def _pads_of_transpose(tape: Tape, node: Node) -> list[int]:
    """Padding of the convolution from y to x; negative if y extends beyond all windows."""
    mode, n = node.attribute("auto_pad", "NOTSET"), len(_kernel(tape, node))
    extra = node.attribute("output_padding", [0] * n)
    if "output_shape" in node.attributes or mode in ("SAME_UPPER", "SAME_LOWER"):
        totals = _totals(tape, node)
        before = [total // 2 if mode == "SAME_UPPER" else (total + 1) // 2 for total in totals]
        after = [total - pad for total, pad in zip(totals, before, strict=True)]
    else:
        pads = node.attribute("pads", [0] * 2 * n) if mode == "NOTSET" else [0] * 2 * n
        before, after = list(pads[:n]), pads[n:]
    return [*before, *(pad - more for pad, more in zip(after, extra, strict=True))]


def _totals(tape: Tape, node: Node) -> list[int]:
    """How much output_shape or auto_pad SAME crops from each axis of the windows' full extent."""
    kernel = _kernel(tape, node)
    n = len(kernel)
    strides, dilations = (node.attribute(key, [1] * n) for key in ("strides", "dilations"))
    extra = node.attribute("output_padding", [0] * n)
    extents = [d * (k - 1) + 1 for d, k in zip(dilations, kernel, strict=True)]
    if "output_shape" not in node.attributes:
        if any(extra):  # ONNX and ONNX Runtime disagree
            raise UnsupportedOperatorError("auto_pad with output_padding is not supported")
        return [max(e - s, 0) for e, s in zip(extents, strides, strict=True)]
    sides = [side for side in tape.dims(node.input(0))[2:] if isinstance(side, int)]
    if len(sides) < n:
        raise UnsupportedOperatorError("output_shape with a dynamic image size is not supported")
    reached = zip(sides, strides, extents, extra, strict=True)
    full = [(side - 1) * s + e + more for side, s, e, more in reached]
    wanted = node.attributes["output_shape"][-n:]
    return [max(f - w, 0) for f, w in zip(full, wanted, strict=True)]


@rules.add("Col2Im", inputs=(0,))
def _col2im(tape: Tape, node: Node, dy: str) -> Cotangents:
    """Split the image into blocks: a convolution with one kernel per position in a block."""
    block = [int(side) for side in tape.required(node.input(2), "block's sides")]
    size = int(np.prod(block))
    kernels = np.eye(size, dtype=tape.dtype(node.input(0))).reshape(size, 1, *block)
    sides = tape.op("Slice", tape.op("Shape", dy), tape.ints(2), tape.ints(2 + len(block)))
    planes = tape.op("Concat", tape.ints(-1, 1), sides, axis=0)
    attributes = {key: node.attribute(key) for key in ("strides", "dilations", "pads")}
    blocks = tape.op("Conv", tape.op("Reshape", dy, planes), kernels, **attributes)
    return [tape.reshape(blocks, like=node.input(0))]


def _kernel(tape: Tape, node: Node) -> tuple[int, ...]:
    """The kernel's spatial shape."""
    if "kernel_shape" in node.attributes:
        return tuple(node.attributes["kernel_shape"])
    sides = tape.dims(node.input(1))[2:]
    known = tuple(side for side in sides if isinstance(side, int))
    if len(known) < len(sides):
        raise UnsupportedOperatorError("the shape of its kernel is unknown")
    return known


def _transposed(tape: Tape, w: str, kernel: Sequence[int], group: int) -> str:
    """[M, C/g, *k] -> [C, M/g, *k], each kernel flipped; constant-folded by ONNX Runtime."""
    spatial = list(range(2, 2 + len(kernel)))
    if group > 1:
        c = tape.dims(w)[1]
        if not isinstance(c, int):
            raise UnsupportedOperatorError("its kernel's number of channels is unknown")
        w = tape.op("Reshape", w, tape.ints(group, -1, c, *kernel))
        w = tape.op("Transpose", w, perm=[0, 2, 1, *(axis + 1 for axis in spatial)])
        w = tape.op("Reshape", w, tape.ints(group * c, -1, *kernel))
    else:
        w = tape.op("Transpose", w, perm=[1, 0, *spatial])
    if all(side == 1 for side in kernel):
        return w
    last = np.iinfo(np.int64).min
    ones = [-1] * len(kernel)
    return tape.op(
        "Slice",
        w,
        tape.ints(*ones),
        tape.ints(*[last] * len(kernel)),
        tape.ints(*spatial),
        tape.ints(*ones),
    )

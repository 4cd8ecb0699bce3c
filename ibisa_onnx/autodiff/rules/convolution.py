"""Convolutions, and the strided windows that pooling shares with them."""

from __future__ import annotations

import numpy as np

from ibisa_onnx.autodiff.node import Node
from ibisa_onnx.autodiff.registry import Cotangents, Rules
from ibisa_onnx.autodiff.tape import Tape
from ibisa_onnx.autodiff.windows import Windows
from ibisa_onnx.errors import UnsupportedOperatorError

rules = Rules()
_END = int(np.iinfo(np.int64).max)


@rules.add("Conv")
def _conv(tape: Tape, node: Node, dy: str) -> Cotangents:
    """The transpose of a convolution with the kernel: another convolution where it can be."""
    w = node.input(1)
    windows = Windows.read(tape, node, _static(tape, w)[2:])
    group = node.attribute("group", 1)
    if all(stride == 1 for stride in windows.strides) and min(windows.transposed_pads) >= 0:
        kernel = _transposed(tape, w, group)
        return [
            tape.op(
                "Conv",
                dy,
                kernel,
                group=group,
                pads=windows.transposed_pads,
                dilations=windows.dilations,
            )
        ]
    return [windows.scatter(tape, dy, w, group)]


@rules.add("ConvTranspose")
def _conv_transpose(tape: Tape, node: Node, dy: str) -> Cotangents:
    """A transposed convolution is the gradient of the convolution with the same kernel."""
    if node.attribute("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise UnsupportedOperatorError("auto_pad is not covered")
    if "output_shape" in node.attributes:
        raise UnsupportedOperatorError("output_shape is not covered")
    names = ("strides", "dilations", "pads", "group")
    attributes = {name: node.attribute(name) for name in names}
    return [tape.op("Conv", dy, node.input(1), **attributes)]


@rules.add("Col2Im", inputs=(0,))
def _col2im(tape: Tape, node: Node, dy: str) -> Cotangents:
    """Windows are cut out of dy, a channel at a time, by a convolution with one tap for each."""
    kernel = [int(side) for side in tape.required(node.input(2), "block's sides")]
    taps = int(np.prod(kernel))
    sides = tape.op("Slice", tape.shape(node.outputs[0]), tape.ints(2), tape.ints(_END))
    plane = tape.op("Concat", tape.ints(-1, 1), sides, axis=0)
    identity = np.eye(taps, dtype=tape.dtype(node.input(0))).reshape(taps, 1, *kernel)
    attributes = {name: node.attribute(name) for name in ("strides", "dilations", "pads")}
    cut = tape.op("Conv", tape.op("Reshape", dy, plane), tape.constant(identity), **attributes)
    return [tape.reshape(cut, like=node.input(0))]


def _static(tape: Tape, w: str) -> tuple[int, ...]:
    static = tape.type(w).static
    if static is None:
        raise UnsupportedOperatorError("its kernel's shape is not known")
    return static


def _transposed(tape: Tape, w: str, group: int) -> str:
    """[M, C/g, *k] -> [C, M/g, *k], each kernel turned round; folded by ONNX Runtime at load."""
    m, c, *kernel = _static(tape, w)
    spatial = list(range(2, 2 + len(kernel)))
    if group > 1:
        w = tape.op("Reshape", w, tape.ints(group, m // group, c, *kernel))
        w = tape.op("Transpose", w, perm=[0, 2, 1, *(axis + 1 for axis in spatial)])
        w = tape.op("Reshape", w, tape.ints(group * c, m // group, *kernel))
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

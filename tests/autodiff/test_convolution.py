from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

OPEN = {3: ["N", 4, "W"], 4: ["N", 4, "H", "W"], 5: ["N", 4, "D", "H", "W"]}

CASES = [
    {},
    {"pads": [1, 1, 1, 1]},
    {"pads": [0, 1, 2, 1]},
    {"pads": [4, 3, 3, 4]},
    {"strides": [2, 2], "pads": [1, 1, 1, 1]},
    {"strides": [2, 3], "pads": [0, 1, 1, 0]},
    {"strides": [4, 4]},
    {"dilations": [2, 2], "pads": [2, 2, 2, 2]},
    {"dilations": [2, 1], "strides": [2, 2], "pads": [1, 0, 0, 1]},
    {"auto_pad": "SAME_UPPER"},
    {"auto_pad": "SAME_LOWER"},
    {"auto_pad": "VALID", "strides": [2, 2]},
]


@pytest.mark.parametrize("is_open", [False, True])
@pytest.mark.parametrize("group", [1, 2, 4])
@pytest.mark.parametrize("attributes", CASES)
def test_conv(check, spread, attributes, group, is_open):
    node = helper.make_node("Conv", ["x", "w", "b"], ["y"], group=group, **attributes)
    constants = {"w": spread(8, 4 // group, 3, 2), "b": spread(8)}
    x = spread(1, 4, 7, 6)
    check(node, x, constants, dims=OPEN[4] if is_open else None, step=0.5)


@pytest.mark.parametrize("mode", ["SAME_UPPER", "SAME_LOWER"])
def test_conv_same_with_a_stride(check, spread, mode):
    node = helper.make_node("Conv", ["x", "w"], ["y"], strides=[2, 2], auto_pad=mode)
    check(node, spread(1, 2, 7, 6), {"w": spread(3, 2, 3, 3)}, step=0.5)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("shape", "kernel"), [((1, 4, 9), (3,)), ((1, 4, 4, 5, 4), (3, 2, 3))])
@pytest.mark.parametrize("is_open", [False, True])
def test_conv_of_other_ranks(check, spread, shape, kernel, stride, is_open):
    n = len(kernel)
    attributes = {"strides": [stride] * n, "pads": [1] * 2 * n}
    node = helper.make_node("Conv", ["x", "w"], ["y"], **attributes)
    dims = OPEN[len(shape)] if is_open else None
    check(node, spread(*shape), {"w": spread(3, 4, *kernel)}, dims=dims, step=0.5)


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("group", [1, 4])
def test_conv_with_a_stride_larger_than_the_kernel(check, spread, kernel, group):
    node = helper.make_node("Conv", ["x", "w"], ["y"], strides=[4, 4], group=group)
    constants = {"w": spread(4, 4 // group, kernel, kernel)}
    check(node, spread(1, 4, 10, 9), constants, step=0.5)


@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"strides": [2, 2]},
        {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]},
        {"strides": [3, 2], "pads": [0, 1, 1, 0]},
        {"dilations": [2, 2]},
    ],
)
def test_conv_transpose(check, spread, attributes, group):
    node = helper.make_node("ConvTranspose", ["x", "w"], ["y"], group=group, **attributes)
    check(node, spread(1, 4, 4, 3), {"w": spread(4, 3, 3, 3)}, dims=OPEN[4], step=0.5)


@pytest.mark.parametrize("is_open", [False, True])
@pytest.mark.parametrize(
    ("attributes", "windows"),
    [
        ({}, 16),
        ({"strides": [2, 1], "pads": [1, 0, 0, 1]}, 15),
        ({"dilations": [2, 1], "strides": [1, 2], "pads": [0, 1, 0, 0]}, 6),
    ],
)
def test_col2im(check, spread, attributes, windows, is_open):
    """A fold of overlapping windows, as PyTorch's Fold."""
    node = helper.make_node("Col2Im", ["x", "image", "block"], ["y"], **attributes)
    constants = {"image": np.array([6, 5]), "block": np.array([3, 2])}
    x = spread(2, 12, windows)
    check(node, x, constants, opset=18, dims=["N", 12, windows] if is_open else None, step=0.5)

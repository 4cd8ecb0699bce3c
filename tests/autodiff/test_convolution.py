from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

from ibisa_onnx.autodiff import differentiate
from ibisa_onnx.errors import UnsupportedOperatorError

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


@pytest.mark.parametrize("is_open", [False, True])
@pytest.mark.parametrize("kernel", [(3, 3), (2, 1)])
@pytest.mark.parametrize("mode", ["SAME_UPPER", "SAME_LOWER"])
def test_conv_same_with_a_stride(check, spread, mode, kernel, is_open):
    node = helper.make_node("Conv", ["x", "w"], ["y"], strides=[2, 3], auto_pad=mode)
    dims = OPEN[4] if is_open else None
    check(node, spread(1, 4, 7, 6), {"w": spread(3, 4, *kernel)}, dims=dims, step=0.5)


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


@pytest.mark.parametrize("is_open", [False, True])
@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"strides": [2, 2]},
        {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]},
        {"strides": [3, 2], "output_padding": [2, 1]},
        {"strides": [3, 2], "pads": [0, 1, 1, 0]},
        {"dilations": [2, 2]},
        {"auto_pad": "SAME_UPPER", "strides": [2, 2]},
        {"auto_pad": "SAME_LOWER", "strides": [2, 4]},
        {"auto_pad": "VALID", "strides": [2, 1]},
    ],
)
def test_conv_transpose(check, spread, attributes, group, is_open):
    node = helper.make_node("ConvTranspose", ["x", "w"], ["y"], group=group, **attributes)
    dims = OPEN[4] if is_open else None
    check(node, spread(1, 4, 4, 3), {"w": spread(4, 3, 3, 3)}, dims=dims, step=0.5)


@pytest.mark.parametrize("mode", ["NOTSET", "SAME_UPPER", "SAME_LOWER"])
@pytest.mark.parametrize("sides", [[9, 7], [8, 6], [7, 8]])
def test_conv_transpose_to_a_given_shape(check, spread, sides, mode):
    attributes = {"strides": [2, 2], "output_shape": sides, "auto_pad": mode}
    attributes["output_padding"] = [1, 1]
    node = helper.make_node("ConvTranspose", ["x", "w"], ["y"], **attributes)
    check(node, spread(1, 4, 4, 3), {"w": spread(4, 3, 3, 3)}, step=0.5)


@pytest.mark.parametrize(("shape", "kernel"), [((1, 4, 5), (3,)), ((1, 4, 2, 3, 2), (2, 3, 2))])
@pytest.mark.parametrize("is_open", [False, True])
def test_conv_transpose_of_other_ranks(check, spread, shape, kernel, is_open):
    n = len(kernel)
    attributes = {"strides": [2] * n, "pads": [1] * 2 * n, "output_padding": [1] * n}
    node = helper.make_node("ConvTranspose", ["x", "w"], ["y"], **attributes)
    dims = OPEN[len(shape)] if is_open else None
    check(node, spread(*shape), {"w": spread(4, 2, *kernel)}, dims=dims, step=0.5)


@pytest.mark.parametrize("is_open", [False, True])
@pytest.mark.parametrize(
    ("sides", "block", "attributes"),
    [
        ([5, 4], [2, 2], {}),
        ([6, 5], [3, 2], {"strides": [2, 1], "pads": [1, 0, 0, 1]}),
        ([7, 5], [2, 3], {"dilations": [2, 1], "pads": [1, 1, 1, 1], "strides": [2, 2]}),
        ([4, 3, 4], [2, 1, 3], {}),
        ([6], [3], {"strides": [2]}),
    ],
)
def test_col2im(check, spread, sides, block, attributes, is_open):
    """Blocks are laid side by side where they came from, and what overlaps is added."""
    n = len(sides)
    pads = attributes.get("pads", [0] * 2 * n)
    strides, dilations = (attributes.get(key, [1] * n) for key in ("strides", "dilations"))
    counts = [
        (sides[i] + pads[i] + pads[n + i] - dilations[i] * (block[i] - 1) - 1) // strides[i] + 1
        for i in range(n)
    ]
    node = helper.make_node("Col2Im", ["x", "sides", "block"], ["y"], **attributes)
    x = spread(2, 3 * int(np.prod(block)), int(np.prod(counts)))
    constants = {"sides": np.array(sides), "block": np.array(block)}
    dims = ["N", x.shape[1], "L"] if is_open else None
    check(node, x, constants, opset=18, dims=dims, step=0.5)


# -- with respect to the kernel and the bias


def _cut(shapes):
    """Nodes that cut the vector x into tensors of these shapes, with their constants."""
    names = [f"part{i}" for i in range(len(shapes))]
    nodes = [helper.make_node("Split", ["x", "lengths"], [f"flat_{n}" for n in names], axis=0)]
    constants = {"lengths": np.array([np.prod(shape) for shape in shapes])}
    for name, shape in zip(names, shapes, strict=True):
        nodes.append(helper.make_node("Reshape", [f"flat_{name}", f"shape_{name}"], [name]))
        constants[f"shape_{name}"] = np.array(shape)
    return nodes, names, constants


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize(
    "attributes",
    [
        lambda n: {},
        lambda n: {"strides": [2] * n, "pads": [1] * 2 * n},
        lambda n: {"dilations": [2] * n, "pads": [1] * n + [2] * n},
        lambda n: {"strides": [2] * n, "auto_pad": "SAME_UPPER"},
        lambda n: {"strides": [3] * n},
    ],
)
@pytest.mark.parametrize("op_type", ["Conv", "ConvTranspose"])
def test_computed_kernel_and_bias(check, spread, op_type, attributes, group, n):
    kernel = (4, 2 // group) if op_type == "Conv" else (2, 4 // group)
    shapes = [(2, 2, 5, 4, 4)[: 2 + n], (*kernel, *(3, 2, 2)[:n]), (4,)]
    nodes, names, constants = _cut(shapes)
    node = helper.make_node(op_type, names, ["y"], group=group, **attributes(n))
    x = spread(sum(int(np.prod(shape)) for shape in shapes))
    check([*nodes, node], x, constants)


def test_kernel_of_open_batch_and_image(check, spread):
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["m"]),
        helper.make_node("ReduceSum", ["m", "axis"], ["scale"]),
        helper.make_node("Mul", ["scale", "w"], ["scaled"]),
        helper.make_node("Conv", ["x", "scaled"], ["y"], strides=[2, 2], pads=[1, 1, 1, 1]),
    ]
    constants = {"axis": np.array([0]), "w": spread(3, 4, 3, 3)}
    check(nodes, spread(2, 4, 6, 5), constants, dims=OPEN[4])


def test_constant_kernels_get_no_gradient(build, spread):
    node = helper.make_node("Conv", ["x", "w", "b"], ["y"])
    model = build([node], spread(1, 4, 5, 5), {"w": spread(2, 4, 3, 3), "b": spread(2)}, 17, None)
    backward = differentiate(model, "x", "y").backward
    assert [n.op_type for n in backward.graph.node].count("Conv") == 1
    assert not {"Split", "ReduceSum"} & {n.op_type for n in backward.graph.node}


@pytest.mark.parametrize(
    ("op_type", "attributes", "dims", "words"),
    [
        ("Conv", {"auto_pad": "SAME_UPPER", "dilations": [2, 2]}, None, "with dilations"),
        ("ConvTranspose", {"output_shape": [6, 6]}, OPEN[4], "dynamic image size"),
        (
            "ConvTranspose",
            {"auto_pad": "SAME_LOWER", "strides": [2, 2], "output_padding": [1, 1]},
            None,
            "with output_padding",
        ),
    ],
)
def test_refusals(build, spread, op_type, attributes, dims, words):
    node = helper.make_node(op_type, ["x", "w"], ["y"], **attributes)
    model: onnx.ModelProto = build([node], spread(1, 4, 4, 4), {"w": spread(4, 4, 3, 3)}, 17, dims)
    with pytest.raises(UnsupportedOperatorError, match=words):
        differentiate(model, "x", "y")

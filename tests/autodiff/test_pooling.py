from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
import torch
from onnx import helper

from ibisa_onnx.autodiff import differentiate
from ibisa_onnx.errors import UnsupportedOperatorError

WINDOWS = [
    {"kernel_shape": [2, 2], "strides": [2, 2]},
    {"kernel_shape": [3, 3], "strides": [2, 2]},
    {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]},
    {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [0, 0, 1, 1]},
    {"kernel_shape": [3, 2], "pads": [1, 0, 1, 1]},
    {"kernel_shape": [2, 2], "strides": [3, 3]},
    {"kernel_shape": [3, 3], "strides": [2, 1], "auto_pad": "VALID"},
]
CEIL = [
    {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1},
    {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1},
    {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1], "ceil_mode": 1},
]
OPEN = ["N", 2, "H", "W"]


@pytest.mark.parametrize("is_open", [False, True])
@pytest.mark.parametrize(
    "attributes",
    [
        *WINDOWS,
        *CEIL,
        {"kernel_shape": [2, 2], "dilations": [2, 2]},
        {"kernel_shape": [2, 3], "dilations": [2, 1], "strides": [2, 2], "pads": [1, 1, 0, 1]},
    ],
)
def test_max_pool(check, spread, attributes, is_open):
    node = helper.make_node("MaxPool", ["x"], ["y"], **attributes)
    check(node, spread(2, 2, 7, 8), opset=12, dims=OPEN if is_open else None, step=1e-3)


@pytest.mark.parametrize("is_open", [False, True])
@pytest.mark.parametrize("padded", [0, 1])
@pytest.mark.parametrize("attributes", [*WINDOWS, *CEIL])
def test_average_pool(check, spread, attributes, padded, is_open):
    node = helper.make_node("AveragePool", ["x"], ["y"], count_include_pad=padded, **attributes)
    dims = OPEN if is_open else None
    check(node, spread(2, 2, 7, 8), opset=19, dims=dims, step=0.5)


@pytest.mark.parametrize("is_open", [False, True])
@pytest.mark.parametrize("kernel", [[3, 3], [2, 4]])
@pytest.mark.parametrize(
    ("op_type", "extra"),
    [
        ("MaxPool", {}),
        ("AveragePool", {}),
        ("AveragePool", {"count_include_pad": 1}),
        ("LpPool", {}),
    ],
)
@pytest.mark.parametrize("mode", ["SAME_UPPER", "SAME_LOWER"])
def test_pool_same(check, spread, op_type, extra, mode, kernel, is_open):
    attributes = {"kernel_shape": kernel, "strides": [2, 3], "auto_pad": mode, **extra}
    node = helper.make_node(op_type, ["x"], ["y"], **attributes)
    check(node, spread(1, 2, 7, 6), dims=OPEN if is_open else None, step=1e-3)


@pytest.mark.parametrize("op_type", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize("shape", [(2, 3, 9), (1, 2, 4, 5, 4)])
def test_pool_of_other_ranks(check, spread, op_type, shape):
    n = len(shape) - 2
    node = helper.make_node(op_type, ["x"], ["y"], kernel_shape=[3] * n, strides=[2] * n)
    check(node, spread(*shape), step=1e-3)


@pytest.mark.parametrize("is_open", [False, True])
@pytest.mark.parametrize("op_type", ["GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"])
def test_global_pool(check, spread, op_type, is_open):
    dims = OPEN if is_open else None
    check(helper.make_node(op_type, ["x"], ["y"]), spread(2, 2, 3, 4), dims=dims, step=1e-3)


@pytest.mark.parametrize("p", [1, 2, 3])
def test_lp_pool(check, spread, p):
    node = helper.make_node("LpPool", ["x"], ["y"], kernel_shape=[3, 2], strides=[2, 2], p=p)
    check(node, spread(1, 2, 7, 6))
    check(helper.make_node("GlobalLpPool", ["x"], ["y"], p=p), spread(1, 2, 3, 4))


@pytest.mark.parametrize("is_open", [False, True])
@pytest.mark.parametrize(
    "attributes",
    [
        {"ceil_mode": 1, "pads": [1, 1, 1, 1]},
        {"dilations": [2, 1]},
        {"dilations": [2, 2], "pads": [1, 0, 1, 1], "ceil_mode": 1},
    ],
)
@pytest.mark.parametrize("op_type", ["AveragePool", "LpPool"])
def test_dilated_pools(check, spread, op_type, attributes, is_open):
    attributes = {"kernel_shape": [3, 2], "strides": [2, 2], **attributes}
    node = helper.make_node(op_type, ["x"], ["y"], **attributes)
    check(node, spread(1, 2, 7, 6), opset=19, dims=OPEN if is_open else None)


@pytest.mark.parametrize("sized", [False, True])
def test_max_unpool(check, spread, sized):
    """To the shape that its windows give, or to a larger one, in which indices count."""
    inputs = ["x", "i", "shape"] if sized else ["x", "i"]
    node = helper.make_node("MaxUnpool", inputs, ["y"], kernel_shape=[2, 2], strides=[2, 2])
    constants = {"i": np.array([5, 7, 13, 15, 16, 19, 26, 29]).reshape(1, 2, 2, 2)}
    if sized:
        constants["shape"] = np.array([1, 2, 5, 5])
    check(node, spread(1, 2, 2, 2), constants)


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"auto_pad": "SAME_UPPER", "dilations": [2, 2]}, "with dilations"),
        ({"ceil_mode": 1, "strides": [3, 3], "pads": [0, 0, 1, 1]}, "starts in the padding"),
    ],
)
def test_refusals(build, spread, attributes, words):
    node = helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2], **attributes)
    model = build([node], spread(1, 2, 9, 9), {}, 12, None)
    with pytest.raises(UnsupportedOperatorError, match=words):
        differentiate(model, "x", "y")


@pytest.mark.parametrize("is_open", [False, True])
@pytest.mark.parametrize(
    "attributes",
    [
        {"kernel_shape": [9, 9], "pads": [4, 4, 4, 4]},
        {"kernel_shape": [5, 13], "strides": [2, 2], "pads": [2, 6, 2, 6]},
        {"kernel_shape": [9, 8], "strides": [2, 1], "auto_pad": "SAME_LOWER"},
        {"kernel_shape": [1, 1], "strides": [2, 2]},
        {"kernel_shape": [1, 3], "strides": [2, 1], "dilations": [1, 2]},
    ],
)
def test_max_pool_of_large_and_of_single_windows(check, spread, attributes, is_open):
    """Windows of more than 64 taps are sent back by MaxPool's own indices."""
    node = helper.make_node("MaxPool", ["x"], ["y"], **attributes)
    check(node, spread(2, 2, 11, 15), opset=12, dims=OPEN if is_open else None, step=1e-3)


def _max_pool(build, x, **attributes):
    """The result, and what gives the gradient for a cotangent."""
    model = build([helper.make_node("MaxPool", ["x"], ["y"], **attributes)], x, {}, 12, None)
    derivative = differentiate(model, "x", "y")
    forward = ort.InferenceSession(derivative.forward.SerializeToString())
    backward = ort.InferenceSession(derivative.backward.SerializeToString())
    y, *saved = forward.run(None, {"x": x})
    feeds = dict(zip(derivative.saved, saved, strict=True))
    return y, lambda dy: backward.run(None, {derivative.cotangent: dy, **feeds})[0]


@pytest.mark.parametrize(("size", "pad"), [(3, 0), (3, 1), (9, 4)])
def test_the_first_of_equal_taps_takes_all(build, size, pad):
    """As in PyTorch, in row-major order; small whole numbers give ties everywhere."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 3, (2, 3, 13, 15)).astype(np.float32)
    leaf = torch.from_numpy(x).requires_grad_()
    pooled = torch.nn.functional.max_pool2d(leaf, size, 2, pad)
    dy = rng.integers(-4, 5, pooled.shape).astype(np.float32)
    (expected,) = torch.autograd.grad(pooled, leaf, torch.from_numpy(dy))
    window = {"kernel_shape": [size] * 2, "strides": [2] * 2, "pads": [pad] * 4}
    _, gradient = _max_pool(build, x, **window)
    np.testing.assert_array_equal(gradient(dy), expected)


@pytest.mark.parametrize("value", [np.nan, -np.inf, np.inf])
@pytest.mark.parametrize("corner", [slice(0, 5), slice(4, 9)])
@pytest.mark.parametrize(
    ("kernel", "strides", "dilations", "pad"),
    [((3, 3), (2, 2), (1, 1), 1), ((2, 3), (3, 2), (2, 1), 1), ((9, 8), (3, 3), (1, 1), 6)],
)
def test_windows_without_a_maximum_keep_to_themselves(
    build, kernel, strides, dilations, pad, corner, value
):
    """Windows of NaN or -inf beside the padding, too, send to one of their taps on the image."""
    x = np.random.default_rng(0).normal(size=(1, 2, 9, 9)).astype(np.float32)
    x[0, 1, corner, corner] = value
    window = {"kernel_shape": kernel, "strides": strides, "dilations": dilations}
    y, gradient = _max_pool(build, x, **window, pads=[pad] * 4)
    for index in np.ndindex(y.shape):
        dy = np.zeros_like(y)
        dy[index] = 1.0
        (place,) = np.argwhere(gradient(dy))
        assert tuple(place[:2]) == index[:2]
        for axis in range(2):
            offset = place[2 + axis] - (index[2 + axis] * strides[axis] - pad)
            assert offset in range(0, kernel[axis] * dilations[axis], dilations[axis])


@pytest.mark.parametrize("shared", [False, True])
def test_max_pool_of_a_rectified_tensor(check, spread, shared):
    """ReLU's mask is applied once, behind the pooling, unless another reader needs it."""
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("MaxPool", ["r"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
    ]
    if shared:
        nodes.append(helper.make_node("ReduceMean", ["r"], ["m"], axes=[2, 3]))
        nodes.append(helper.make_node("Add", ["p", "m"], ["y"]))
    else:
        nodes[1].output[0] = "y"
    check(nodes, spread(1, 2, 6, 6, low=-4.0, high=1.0), step=1e-3)


@pytest.mark.parametrize("partly", [False, True])
def test_max_pool_of_joined_rectified_tensors(check, spread, partly):
    """Behind a Concat as well, if nothing but ReLUs is joined."""
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("Neg", ["x"], ["n"]),
        helper.make_node("Relu", ["n"], ["s"]),
        helper.make_node("Concat", ["r", "n" if partly else "s"], ["c"], axis=1),
        helper.make_node("MaxPool", ["c"], ["y"], kernel_shape=[2, 2], strides=[2, 2]),
    ]
    if partly:
        del nodes[2]
    check(nodes, spread(1, 2, 6, 6, low=-4.0, high=1.0), step=1e-3)


@pytest.mark.parametrize("is_open", [False, True])
@pytest.mark.parametrize(("dilations", "sides"), [([5, 3], (4, 2)), ([2, 2], (1, 1))])
def test_max_pool_of_windows_that_miss_the_image(check, spread, dilations, sides, is_open):
    """With dilation a small image fits between two taps; there is no maximum then."""
    window = {"kernel_shape": [2, 2], "dilations": dilations, "pads": [1, 1, 1, 1]}
    node = helper.make_node("MaxPool", ["x"], ["y"], **window)
    check(node, spread(2, 2, *sides), dims=OPEN if is_open else None, step=1e-3)


def test_max_pool_and_its_unpooling(check, spread):
    window = {"kernel_shape": [2, 2], "strides": [2, 2]}
    nodes = [
        helper.make_node("MaxPool", ["x"], ["p", "i"], **window),
        helper.make_node("Mul", ["p", "p"], ["q"]),
        helper.make_node("MaxUnpool", ["q", "i"], ["y"], **window),
    ]
    check(nodes, spread(1, 2, 4, 6), step=1e-3)

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

from ibisa_onnx.autodiff import differentiate


def ints(*values):
    return np.array(values, np.int64)


@pytest.mark.parametrize("dims", [None, ["N", 3, 4], [None, None, None]])
@pytest.mark.parametrize(
    ("node", "constants"),
    [
        (helper.make_node("Reshape", ["x", "s"], ["y"]), {"s": ints(0, -1)}),
        (helper.make_node("Flatten", ["x"], ["y"], axis=2), {}),
        (helper.make_node("Transpose", ["x"], ["y"]), {}),
        (helper.make_node("Transpose", ["x"], ["y"], perm=[1, 2, 0]), {}),
        (helper.make_node("Unsqueeze", ["x", "s"], ["y"]), {"s": ints(0, 2)}),
        (helper.make_node("Expand", ["x", "s"], ["y"]), {"s": ints(2, 1, 3, 1)}),
        (helper.make_node("Tile", ["x", "s"], ["y"]), {"s": ints(2, 1, 3)}),
        (helper.make_node("Concat", ["x", "c", "x"], ["y"], axis=1), {"c": np.ones((2, 2, 4))}),
        (helper.make_node("Concat", ["c", "x"], ["y"], axis=-1), {"c": np.ones((2, 3, 1))}),
        (helper.make_node("Trilu", ["x"], ["y"], upper=0), {}),
    ],
)
def test_moving(check, spread, node, constants, dims):
    check(node, spread(2, 3, 4), constants, dims=dims)


@pytest.mark.parametrize("opset", [11, 13])
def test_squeeze_and_unsqueeze_in_old_and_new_form(check, spread, opset):
    def node(op_type, source, target, axes):
        if opset < 13:
            return helper.make_node(op_type, [source], [target], axes=axes)
        return helper.make_node(op_type, [source, f"{op_type}_axes"], [target])

    nodes = [node("Unsqueeze", "x", "u", [1, 3]), node("Squeeze", "u", "y", [1])]
    constants = {} if opset < 13 else {"Unsqueeze_axes": ints(1, 3), "Squeeze_axes": ints(1)}
    check(nodes, spread(2, 3), constants, opset=opset, dims=["N", 3])


@pytest.mark.parametrize("dims", [None, ["N", 6], [None, None]])
@pytest.mark.parametrize("used", ["a", "b", "ab"])
@pytest.mark.parametrize("opset", [11, 13])
def test_split(check, spread, opset, used, dims):
    attributes = {"split": [2, 4]} if opset < 13 else {}
    inputs = ["x"] if opset < 13 else ["x", "s"]
    split = helper.make_node("Split", inputs, ["a", "b"], axis=1, **attributes)
    last = helper.make_node("Concat", [*used, "x"], ["y"], axis=1)
    check([split, last], spread(2, 6), {"s": ints(2, 4)}, opset=opset, dims=dims)


SLICES = [
    ([1], [3], [0], [1]),
    ([0, 1], [2, 9], [0, 1], [1, 1]),
    ([-3], [-1], [1], [1]),
    ([0], [100], [1], [2]),
    ([1], [100], [-1], [3]),
    ([-1], [-100], [1], [-1]),
    ([5, 3], [0, -(2**62)], [1, 0], [-2, -1]),
    ([2], [2**63 - 1], [0], [1]),
]


@pytest.mark.parametrize("dims", [None, ["N", 7], [None, None]])
@pytest.mark.parametrize(("starts", "ends", "axes", "steps"), SLICES)
def test_slice(check, spread, starts, ends, axes, steps, dims):
    node = helper.make_node("Slice", ["x", "s", "e", "a", "t"], ["y"])
    constants = {"s": ints(*starts), "e": ints(*ends), "a": ints(*axes), "t": ints(*steps)}
    check(node, spread(4, 7), constants, dims=dims)


def test_slice_with_attributes(check, spread):
    node = helper.make_node("Slice", ["x"], ["y"], starts=[1, -2], ends=[3, 100])
    check(node, spread(4, 7), opset=9)


def test_slice_at_run_time(check, spread):
    """The cut is computed from the shape, as exported code does it."""
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "one"], ["width"]),
        helper.make_node("Div", ["width", "two"], ["half"]),
        helper.make_node("Slice", ["x", "half", "width", "one"], ["y"]),
    ]
    constants = {"one": ints(1), "two": ints(2)}
    check(nodes, spread(3, 6), constants, dims=["N", "W"])


@pytest.mark.parametrize("dims", [None, ["N", 4, 2], [None, None, None]])
@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize(
    "indices", [np.array(1), ints(0, 1), ints(1, 0, 1), ints(-1), np.array([[0, 1], [1, 1]])]
)
def test_gather(check, spread, indices, axis, dims):
    node = helper.make_node("Gather", ["x", "i"], ["y"], axis=axis)
    check(node, spread(3, 4, 2), {"i": indices}, dims=dims)


@pytest.mark.parametrize("axis", [0, 1])
def test_gather_elements(check, spread, axis):
    node = helper.make_node("GatherElements", ["x", "i"], ["y"], axis=axis)
    check(node, spread(3, 3), {"i": np.array([[0, 0, 2], [1, 1, 1], [2, 0, 2]])})


def test_gather_nd(check, spread):
    node = helper.make_node("GatherND", ["x", "i"], ["y"])
    check(node, spread(3, 4), {"i": np.array([[0, 1], [2, 2], [0, 1]])})
    check(node, spread(3, 4), {"i": np.array([[0], [2], [2]])})


@pytest.mark.parametrize("which", ["data", "updates"])
def test_scatter_nd(check, spread, which):
    values = {"data": spread(4, 3), "updates": spread(2, 3)}
    x = values.pop(which)
    inputs = ["x" if which == "data" else "data", "i", "x" if which == "updates" else "updates"]
    node = helper.make_node("ScatterND", inputs, ["y"])
    check(node, x, {"i": np.array([[3], [1]]), **values}, opset=16)


@pytest.mark.parametrize("which", ["data", "updates"])
def test_scatter_elements(check, spread, which):
    values = {"data": spread(4, 3), "updates": spread(2, 3)}
    x = values.pop(which)
    inputs = ["x" if which == "data" else "data", "i", "x" if which == "updates" else "updates"]
    node = helper.make_node("ScatterElements", inputs, ["y"], axis=0)
    indices = np.array([[3, 1, 0], [1, 0, 2]])
    check(node, x, {"i": indices, **values}, opset=16)


@pytest.mark.parametrize("largest", [0, 1])
def test_top_k(check, spread, largest):
    node = helper.make_node("TopK", ["x", "k"], ["y", "i"], axis=1, largest=largest)
    check(node, spread(3, 5), {"k": ints(2)})


@pytest.mark.parametrize("dims", [None, ["N", 4, 5]])
@pytest.mark.parametrize("mode", ["constant", "reflect", "edge"])
@pytest.mark.parametrize("opset", [7, 11, 18])
def test_pad(check, spread, opset, mode, dims):
    pads = [0, 1, 2, 0, 3, 1]
    attributes = {"pads": pads} if opset < 11 else {}
    inputs = ["x"] if opset < 11 else ["x", "p"]
    node = helper.make_node("Pad", inputs, ["y"], mode=mode, **attributes)
    check(node, spread(2, 4, 5), {"p": ints(*pads)}, opset=opset, dims=dims)


def test_pad_of_named_axes_and_by_negative_amounts(check, spread):
    node = helper.make_node("Pad", ["x", "p", "", "a"], ["y"])
    check(node, spread(2, 4, 5), {"p": ints(1, -2), "a": ints(2)}, opset=18)


@pytest.mark.parametrize("dims", [None, [None, None]])
@pytest.mark.parametrize("pads", [(0, 3, 0, 2), (0, 6, 0, 5)])
def test_pad_wrap(check, spread, pads, dims):
    node = helper.make_node("Pad", ["x", "p"], ["y"], mode="wrap")
    check(node, spread(2, 4), {"p": ints(*pads)}, opset=19, dims=dims)


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_depth_to_space(check, spread, mode):
    node = helper.make_node("DepthToSpace", ["x"], ["y"], blocksize=2, mode=mode)
    check(node, spread(1, 8, 2, 3), dims=["N", 8, "H", "W"])


def test_space_to_depth(check, spread):
    check(helper.make_node("SpaceToDepth", ["x"], ["y"], blocksize=2), spread(1, 2, 4, 6))


def test_dropout_at_inference(check, spread):
    check(helper.make_node("Dropout", ["x"], ["y"]), spread(2, 3))
    check(helper.make_node("Dropout", ["x"], ["y"], ratio=0.3), spread(2, 3), opset=7)


# -- picking elements


@pytest.mark.parametrize("dims", [None, [None, None, None]])
@pytest.mark.parametrize(
    ("node", "constants"),
    [
        (
            helper.make_node("Compress", ["x", "c"], ["y"], axis=1),
            {"c": np.array([True, False, True])},
        ),
        (helper.make_node("Compress", ["x", "c"], ["y"]), {"c": np.array([False, True] * 5)}),
        (
            helper.make_node("GatherND", ["x", "c"], ["y"], batch_dims=1),
            {"c": ints(2, 0, 0, 3, 1, 1, 1, 1).reshape(2, 2, 2)},
        ),
        (
            helper.make_node("ReverseSequence", ["x", "c"], ["y"], time_axis=1, batch_axis=0),
            {"c": ints(3, 2)},
        ),
    ],
)
def test_picking(check, spread, node, constants, dims):
    check(node, spread(2, 3, 4), constants, dims=dims)


@pytest.mark.parametrize("step", [1, 2, -1])
def test_slice_of_an_axis_known_at_run_time(check, spread, step):
    """The axis is the length of an open side."""
    nodes = [
        helper.make_node("Shape", ["x"], ["axis"], start=0, end=1),
        helper.make_node("Slice", ["x", "start", "end", "axis", "step"], ["y"]),
    ]
    bounds = {"start": ints(-1), "end": ints(0)} if step < 0 else {"start": ints(0), "end": ints(3)}
    check(nodes, spread(1, 4, 2), {**bounds, "step": ints(step)}, dims=["N", 4, 2])


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_space_to_depth_in_either_order(build, mode):
    """No runtime has its own kernel for the newest form; the transpose moves every pixel back."""
    x = np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4)
    node = helper.make_node("SpaceToDepth", ["x"], ["y"], blocksize=2, mode=mode)
    derivative = differentiate(build([node], x, {}, 28, None), "x", "y")
    model = build([node], x, {}, 28, None)
    (y,) = ReferenceEvaluator(model).run(None, {"x": x})
    (dx,) = ReferenceEvaluator(derivative.backward).run(None, {derivative.cotangent: y})
    np.testing.assert_array_equal(dx, x)


@pytest.mark.parametrize("which", ["data", "updates"])
@pytest.mark.parametrize("reduction", ["add", "mul", "max", "min"])
@pytest.mark.parametrize("op_type", ["ScatterElements", "ScatterND"])
def test_scatter_that_reduces(check, spread, op_type, reduction, which):
    """Twice to one place, and for a product with zeros among data and updates."""
    every = spread(20)
    values = {"data": every[:12].reshape(4, 3), "updates": every[12:18].reshape(2, 3)}
    indices = np.array([[3], [3]])
    if op_type == "ScatterElements":
        indices = np.array([[3, 1, 0], [3, 1, 2]])
    if reduction == "mul":
        values["data"][3] = [0, 0, 2]
        values["updates"][:] = [[2, 0, 0], [3, 4, 0]]
    x = values.pop(which)
    inputs = ["x" if which == "data" else "data", "i", "x" if which == "updates" else "updates"]
    node = helper.make_node(op_type, inputs, ["y"], reduction=reduction)
    check(node, x, {"i": indices, **values}, opset=18)


@pytest.mark.parametrize("reduction", ["max", "min"])
def test_scattered_ties_share(build, run_gradient, reduction):
    """A datum and one of two updates to it are equal, the other one is beaten."""
    nodes = [
        helper.make_node("Slice", ["x", "start", "middle"], ["data"]),
        helper.make_node("Slice", ["x", "middle", "end"], ["updates"]),
        helper.make_node("ScatterElements", ["data", "i", "updates"], ["y"], reduction=reduction),
    ]
    beaten = 1 if reduction == "max" else 5
    x = np.float32([3, 4, 3, beaten])
    constants = {"start": ints(0), "middle": ints(2), "end": ints(4), "i": ints(0, 0)}
    dx = run_gradient(build(nodes, x, constants, 18, None), x)
    np.testing.assert_allclose(dx, [0.5, 1, 0.5, 0])


@pytest.mark.parametrize("is_open", [False, True])
@pytest.mark.parametrize("mode", ["linear", "circular"])
@pytest.mark.parametrize("axis", [1, -2])
@pytest.mark.parametrize("which", ["past", "update"])
def test_tensor_scatter(check, spread, which, axis, mode, is_open):
    values = {"past": spread(2, 4, 5, 3), "update": spread(2, 2, 5, 3)}
    if axis == -2:
        values = {name: value.swapaxes(1, 2) for name, value in values.items()}
    x = values.pop(which)
    inputs = [*("x" if name == which else name for name in ("past", "update")), "start"]
    node = helper.make_node("TensorScatter", inputs, ["y"], mode=mode, axis=axis)
    start = ints(1, 3 if mode == "circular" else 2)
    dims = ["N", None, None, 3] if is_open else None
    check(node, x, {"start": start, **values}, opset=24, dims=dims)


def test_tensor_scatter_from_the_beginning(check, spread):
    node = helper.make_node("TensorScatter", ["past", "x"], ["y"])
    check(node, spread(2, 2, 3), {"past": spread(2, 4, 3)}, opset=24)


@pytest.mark.parametrize("which", ["start", "delta"])
def test_range(check, which):
    values = {"start": np.array(1.3), "limit": np.array(4.0), "delta": np.array(0.8)}
    x = values.pop(which)
    inputs = ["x" if name == which else name for name in ("start", "limit", "delta")]
    check(helper.make_node("Range", inputs, ["y"]), x, values)


def test_scatter_of_old_opsets(check, spread):
    node = helper.make_node("Scatter", ["x", "i", "u"], ["y"], axis=1)
    constants = {"i": ints(0, 2, 1, 0).reshape(2, 2), "u": np.ones((2, 2))}
    check(node, spread(2, 3), constants, opset=9)


@pytest.mark.parametrize("is_open", [False, True])
@pytest.mark.parametrize(
    ("start", "end", "step"),
    [(-6, np.iinfo(np.int64).min, -1), (-9, -8, -2), (9, -9, -1), (-9, 9, 1), (3, 3, 1)],
)
def test_slice_bounds_beyond_the_axis(check, spread, start, end, step, is_open):
    """Beside what is taken, the whole is read, as a slice may take nothing at all."""
    nodes = [
        helper.make_node("Slice", ["x", "start", "end", "axis", "step"], ["cut"]),
        helper.make_node("Concat", ["cut", "x"], ["both"], axis=0),
        helper.make_node("Mul", ["both", "both"], ["y"]),
    ]
    bounds = {"start": start, "end": end, "axis": 0, "step": step}
    constants = {name: np.array([value]) for name, value in bounds.items()}
    check(nodes, spread(5), constants, dims=["N"] if is_open else None)

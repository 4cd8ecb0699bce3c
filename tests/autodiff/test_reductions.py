from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

NAMES = ["Sum", "Mean", "Max", "Min", "L1", "L2", "SumSquare", "LogSum", "LogSumExp"]


@pytest.mark.parametrize("is_open", [False, True])
@pytest.mark.parametrize("keep", [0, 1])
@pytest.mark.parametrize("axes", [None, [1], [0, 2], [-1]])
@pytest.mark.parametrize("opset", [11, 13, 18])
@pytest.mark.parametrize("name", NAMES)
def test_reduction(check, spread, name, opset, axes, keep, is_open):
    as_input = opset >= 18 or (name == "Sum" and opset >= 13)
    attributes, constants, inputs = {"keepdims": keep}, {}, ["x"]
    if axes is not None and as_input:
        constants, inputs = {"axes": np.array(axes, np.int64)}, ["x", "axes"]
    elif axes is not None:
        attributes["axes"] = axes
    node = helper.make_node(f"Reduce{name}", inputs, ["y"], **attributes)
    x = spread(2, 3, 4, low=0.3, high=2.5)
    check(node, x, constants, opset=opset, dims=[None, 3, "W"] if is_open else None, step=2e-3)


@pytest.mark.parametrize("keep", [0, 1])
@pytest.mark.parametrize("name", [*NAMES, "Prod"])
def test_reduction_over_axes_known_at_run_time(check, spread, name, keep):
    """The axis is the length of an open side."""
    nodes = [
        helper.make_node("Shape", ["x"], ["axis"], start=0, end=1),
        helper.make_node(f"Reduce{name}", ["x", "axis"], ["y"], keepdims=keep),
    ]
    x = spread(2, 3, 4, low=0.3, high=2.5)
    check(nodes, x, opset=18, dims=["N", 3, 4], step=2e-3)


@pytest.mark.parametrize("axes", [None, [1], [0, 1]])
def test_product_with_zeros(check, axes):
    """A lone zero passes the product of the others; two in a row pass nothing."""
    x = np.array([[0.0, 2.0, 3.0], [0.0, 0.0, 5.0], [1.5, -2.0, 0.5]])
    constants = {} if axes is None else {"axes": np.array(axes)}
    node = helper.make_node("ReduceProd", ["x", *constants], ["y"])
    check(node, x, constants, opset=18)


def test_reduction_over_no_axes(check, spread):
    node = helper.make_node("ReduceSum", ["x"], ["y"], noop_with_empty_axes=1)
    check(node, spread(2, 3))


@pytest.mark.parametrize("reverse", [0, 1])
@pytest.mark.parametrize("exclusive", [0, 1])
def test_cumulative_sum(check, spread, reverse, exclusive):
    node = helper.make_node("CumSum", ["x", "a"], ["y"], reverse=reverse, exclusive=exclusive)
    check(node, spread(3, 4), {"a": np.array(1)})


@pytest.mark.parametrize("is_open", [False, True])
@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("reverse", [0, 1])
@pytest.mark.parametrize("exclusive", [0, 1])
def test_cumulative_product(check, spread, reverse, exclusive, axis, is_open):
    """Two zeros in a row, one in another, none in the last."""
    x = spread(3, 4, 2)
    x[0, 1], x[0, 3, 0], x[2, 2, 1] = 0, 0, 0
    node = helper.make_node("CumProd", ["x", "a"], ["y"], reverse=reverse, exclusive=exclusive)
    dims = ["N", None, 2] if is_open else None
    check(node, x, {"a": np.array(axis)}, opset=26, dims=dims)


def test_cumulative_product_of_a_vector(check):
    node = helper.make_node("CumProd", ["x", "a"], ["y"])
    check(node, np.array([2.0, 0.0, 3.0, -1.0]), {"a": np.array(0)}, opset=26)

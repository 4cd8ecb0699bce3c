from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

CASES = [
    ("Relu", {}),
    ("LeakyRelu", {"alpha": 0.2}),
    ("LeakyRelu", {"alpha": -0.5}),
    ("Elu", {"alpha": 1.4}),
    ("Selu", {}),
    ("Celu", {"alpha": 0.7}),
    ("ThresholdedRelu", {"alpha": 0.8}),
    ("Sigmoid", {}),
    ("HardSigmoid", {"alpha": 0.3, "beta": 0.4}),
    ("HardSwish", {}),
    ("Tanh", {}),
    ("Softplus", {}),
    ("Softsign", {}),
]


@pytest.mark.parametrize(("op_type", "attributes"), CASES)
def test_activation(check, spread, op_type, attributes):
    x = spread(3, 11, low=-4.1, high=4.1)
    check(helper.make_node(op_type, ["x"], ["y"], **attributes), x)


@pytest.mark.parametrize(
    ("op_type", "opset", "attributes"),
    [
        ("Mish", 18, {}),
        ("Gelu", 20, {}),
        ("Gelu", 20, {"approximate": "tanh"}),
    ],
)
def test_activation_defined_by_other_operators(check, spread, op_type, opset, attributes):
    x = spread(3, 7, low=-3.0, high=3.0)
    check(helper.make_node(op_type, ["x"], ["y"], **attributes), x, opset=opset)


@pytest.mark.parametrize("slope", [np.array([0.3]), np.array([[0.1], [0.5], [-0.2]])])
def test_prelu(check, spread, slope):
    check(helper.make_node("PRelu", ["x", "s"], ["y"]), spread(2, 3, 4), {"s": slope})


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-1.0, 1.1), (None, 0.7), (-0.4, None)])
def test_clip(check, spread, low, high):
    bounds = {"lo": low, "hi": high}
    constants = {k: np.array(v) for k, v in bounds.items() if v is not None}
    inputs = ["x", *(k if v is not None else "" for k, v in bounds.items())]
    check(helper.make_node("Clip", inputs, ["y"]), spread(3, 9), constants)
    old = {"min": low, "max": high}
    attributes = {k: v for k, v in old.items() if v is not None}
    check(helper.make_node("Clip", ["x"], ["y"], **attributes), spread(3, 9), opset=7)


@pytest.mark.parametrize("op_type", ["Softmax", "LogSoftmax"])
@pytest.mark.parametrize("opset", [7, 11, 13, 17])
@pytest.mark.parametrize("axis", [None, 0, 1, 2, -2])
def test_softmax_before_and_after_opset_13(check, spread, op_type, opset, axis):
    if opset == 7 and axis == -2:
        pytest.skip("opset 7 has no negative axes")
    attributes = {} if axis is None else {"axis": axis}
    x = spread(2, 3, 4)
    check(helper.make_node(op_type, ["x"], ["y"], **attributes), x, opset=opset)


@pytest.mark.parametrize("op_type", ["Relu", "Clip", "Max", "MaxPool"])
@pytest.mark.parametrize("steep", ["Sqrt", "Log", "Pow"])
def test_a_closed_unit_before_an_infinite_slope_gets_nothing(build, run_gradient, op_type, steep):
    """0 times infinity is not what a closed unit passes back."""
    x = np.array([-1.0, 4.0, -2.0, 9.0], np.float32).reshape(1, 1, 4)
    inputs = ["x", "zero"] if op_type in ("Clip", "Max") else ["x"]
    nodes = [helper.make_node("Relu" if op_type == "MaxPool" else op_type, inputs, ["a"])]
    if op_type == "MaxPool":
        nodes.append(helper.make_node("MaxPool", ["a"], ["m"], kernel_shape=[1]))
    last = nodes[-1].output[0]
    nodes.append(helper.make_node(steep, [last, "half"] if steep == "Pow" else [last], ["y"]))
    model = build(nodes, x, {"zero": np.array(0.0), "half": np.array(0.5)}, 17, None)
    dx = run_gradient(model, x)
    slope = 1 / x if steep == "Log" else 0.5 / np.sqrt(np.abs(x))
    np.testing.assert_allclose(dx, np.where(x > 0, slope, 0), rtol=1e-6)

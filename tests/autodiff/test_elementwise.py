from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto, helper

from ibisa_onnx.autodiff.rules import RULES


@pytest.mark.parametrize(
    "op_type",
    ["Neg", "Abs", "Exp", "Erf", "Sin", "Cos", "Tan", "Sinh", "Cosh", "Asinh", "Atan", "Identity"],
)
def test_function_of_one_tensor(check, spread, op_type):
    check(helper.make_node(op_type, ["x"], ["y"]), spread(2, 7, low=-1.3, high=1.3))


@pytest.mark.parametrize(
    ("op_type", "low", "high"),
    [
        ("Log", 0.3, 3.0),
        ("Sqrt", 0.3, 3.0),
        ("Reciprocal", 0.5, 3.0),
        ("Asin", -0.8, 0.8),
        ("Acos", -0.8, 0.8),
        ("Atanh", -0.8, 0.8),
        ("Acosh", 1.4, 4.0),
    ],
)
def test_function_with_a_domain(check, spread, op_type, low, high):
    check(helper.make_node(op_type, ["x"], ["y"]), spread(2, 7, low=low, high=high))


@pytest.mark.parametrize("side", ["left", "right", "both"])
@pytest.mark.parametrize(
    "op_type", ["Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Sum", "Mean"]
)
def test_function_of_two_tensors(check, spread, op_type, side):
    inputs = {"left": ["x", "c"], "right": ["c", "x"], "both": ["x", "x"]}[side]
    constant = spread(2, 3, 4, low=0.6, high=2.1)
    x = spread(2, 3, 4, low=0.51, high=2.0)
    check(helper.make_node(op_type, inputs, ["y"]), x, {"c": constant})


@pytest.mark.parametrize("inputs", [["x", "c"], ["c", "x"]])
def test_remainder(check, inputs):
    """It keeps the dividend's sign, and falls with the divisor by the whole quotient."""
    node = helper.make_node("Mod", inputs, ["y"], fmod=1)
    x = np.array([[5.3, -4.1, 7.7], [1.2, -9.4, 2.9]])
    check(node, x, {"c": np.array([2.0, -1.5, 3.1])})


@pytest.mark.parametrize("exponent", [2.0, 3.0, 0.5, -1.0])
def test_power_of_a_constant(check, spread, exponent):
    node = helper.make_node("Pow", ["x", "c"], ["y"])
    check(node, spread(5, low=0.5, high=2.0), {"c": np.array(exponent)})


def test_power_with_an_integer_exponent(check, spread):
    node = helper.make_node("Pow", ["x", "c"], ["y"])
    check(node, spread(2, 5), {"c": np.array([3], np.int64)})


@pytest.mark.parametrize("is_open", [False, True])
@pytest.mark.parametrize("op_type", ["Add", "Mul", "Div"])
@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_broadcasting_is_summed_away(check, op_type, is_open, data):
    shapes = data.draw(hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=3, max_side=3))
    small, other = shapes.input_shapes
    rng = np.random.default_rng(2)
    x, constant = (rng.uniform(0.5, 2.0, shape) for shape in (small, other))
    swapped = data.draw(st.booleans())
    node = helper.make_node(op_type, ["c", "x"] if swapped else ["x", "c"], ["y"])
    check(node, x, {"c": constant}, dims=[None] * x.ndim if is_open else None)


def test_equal_symbols_need_no_sum(build):
    from ibisa_onnx.autodiff import differentiate

    nodes = [
        helper.make_node("Exp", ["x"], ["e"]),
        helper.make_node("Mul", ["x", "e"], ["y"]),
    ]
    model = build(nodes, np.zeros((2, 3)), {}, 17, ["N", 3])
    backward = differentiate(model, "x", "y").backward
    assert "ReduceSum" not in {node.op_type for node in backward.graph.node}


def test_where_sends_each_element_to_one_side(check, spread):
    constants = {"c": np.array([[True], [False]]), "o": spread(2, 3)}
    check(helper.make_node("Where", ["c", "x", "o"], ["y"]), spread(2, 3), constants)
    check(helper.make_node("Where", ["c", "o", "x"], ["y"]), spread(3), constants)


def test_ties_keep_the_sum(build):
    import onnxruntime as ort

    from ibisa_onnx.autodiff import differentiate

    model = build([helper.make_node("Max", ["x", "x", "x"], ["y"])], np.zeros(4), {}, 17, None)
    derivative = differentiate(model, "x", "y")
    backward = ort.InferenceSession(derivative.backward.SerializeToString())
    feeds = {derivative.cotangent: np.ones(4), **dict.fromkeys(derivative.saved, np.zeros(4))}
    np.testing.assert_array_equal(backward.run(None, feeds)[0], np.ones(4))


def test_cast_goes_back_to_the_type_it_came_from(build):
    import onnxruntime as ort

    from ibisa_onnx.autodiff import differentiate

    nodes = [
        helper.make_node("Cast", ["x"], ["h"], to=TensorProto.DOUBLE),
        helper.make_node("Exp", ["h"], ["y"]),
    ]
    x = np.float32([0.5, 1.0])
    derivative = differentiate(build(nodes, x, {}, 17, None), "x", "y")
    forward = ort.InferenceSession(derivative.forward.SerializeToString())
    backward = ort.InferenceSession(derivative.backward.SerializeToString())
    _y, *saved = forward.run(None, {"x": x})
    feeds = {derivative.cotangent: np.ones(2), **dict(zip(derivative.saved, saved, strict=True))}
    (dx,) = backward.run(None, feeds)
    assert dx.dtype == np.float32
    np.testing.assert_allclose(dx, np.exp(x), rtol=1e-6)


@pytest.mark.parametrize("constant", [True, False])
def test_the_zeroth_power_has_no_slope_not_even_at_zero(build, run_gradient, constant):
    x = np.array([0.0, -1.0, 2.0, 0.0], np.float32)
    powers = np.array([0.0, 0.0, 0.0, 1.0])
    nodes = [helper.make_node("Pow", ["x", "p"], ["y"])]
    if not constant:
        nodes.insert(0, helper.make_node("Abs", ["q"], ["p"]))
    model = build(nodes, x, {"p" if constant else "q": powers}, 17, None)
    np.testing.assert_array_equal(run_gradient(model, x), [0, 0, 0, 1])


def test_optional_that_is_there(check, spread):
    nodes = [
        helper.make_node("Optional", ["x"], ["maybe"]),
        helper.make_node("OptionalGetElement", ["maybe"], ["there"]),
        helper.make_node("Sin", ["there"], ["y"]),
    ]
    check(nodes, spread(2, 3), opset=18)


def test_operator_of_another_domain(check, spread, monkeypatch):
    """One that ONNX Runtime lacks, in Python: x tanh x."""
    extensions = pytest.importorskip("onnxruntime_extensions")
    double = extensions.PyCustomOpDef.dt_double

    @extensions.onnx_op(op_type="Swoosh", inputs=[double], outputs=[double])
    def swoosh(x):
        return x * np.tanh(x)

    monkeypatch.setattr(RULES, "_table", dict(RULES._table))

    @RULES.add("Swoosh", domain="ai.onnx.contrib")
    def _(tape, node, dy):
        (x,) = node.inputs
        t = tape.op("Tanh", x)
        slope = tape.op("Sub", tape.scalar(1, x), tape.op("Mul", t, t))
        return [tape.op("Mul", dy, tape.op("Add", t, tape.op("Mul", x, slope)))]

    node = helper.make_node("Swoosh", ["x"], ["y"], domain="ai.onnx.contrib")
    check(node, spread(2, 7), domains=[helper.make_opsetid("ai.onnx.contrib", 1)])

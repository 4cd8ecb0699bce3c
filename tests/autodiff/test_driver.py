from __future__ import annotations

import resource

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from ibisa_onnx.autodiff import Derivative, differentiate, missing_rules
from ibisa_onnx.autodiff.graph import Graph
from ibisa_onnx.autodiff.rules import RULES
from ibisa_onnx.errors import GradientError, ModelError, UnsupportedOperatorError


def run(model, feeds):
    return ort.InferenceSession(model.SerializeToString()).run(None, feeds)


def gradient(derivative: Derivative, x, dy=None, feeds=None):
    """y and dx, through two sessions."""
    y, *saved = run(derivative.forward, {derivative.input: x, **(feeds or {})})
    values = dict(zip(derivative.saved, saved, strict=True))
    cotangent = np.ones_like(y) if dy is None else dy
    (dx,) = run(derivative.backward, {derivative.cotangent: cotangent, **values})
    return y, dx


def chain(*op_types):
    names = ["x", *(f"t{i}" for i in range(1, len(op_types))), "y"]
    return [
        helper.make_node(op, [a], [b], name=f"{op}_{i}")
        for i, (op, a, b) in enumerate(zip(op_types, names, names[1:], strict=False))
    ]


def test_hand_computed(build):
    """y = x^2 + 3 x at 2: dy/dx = 7."""
    nodes = [
        helper.make_node("Mul", ["x", "x"], ["square"]),
        helper.make_node("Mul", ["x", "three"], ["triple"]),
        helper.make_node("Add", ["square", "triple"], ["y"]),
    ]
    model = build(nodes, np.float32([2.0]), {"three": np.array([3.0])}, 17, None)
    y, dx = gradient(differentiate(model, "x", "y"), np.float32([2.0]))
    assert y == 10
    assert dx == 7


def test_a_backward_graph_can_be_differentiated_itself(build):
    """It is linear in the cotangent, so that its own gradient is the Jacobian."""
    nodes = [
        helper.make_node("Clip", ["x", "low", "high"], ["c"]),
        helper.make_node("Reshape", ["c", "rows"], ["r"]),
        helper.make_node("MatMul", ["r", "w"], ["m"]),
        helper.make_node("Tanh", ["m"], ["y"]),
    ]
    rng = np.random.default_rng(3)
    constants = {"low": np.array(-0.5), "high": np.array(0.5), "w": rng.normal(size=(6, 4))}
    x = rng.normal(size=(3, 2, 3)).astype(np.float32)
    constants["rows"] = np.array([0, -1])
    model = build(nodes, x, constants, 17, ["N", 2, 3])
    once = differentiate(model, "x", "y")
    for handed in once.backward.graph.input:
        assert handed.type.tensor_type.HasField("shape"), handed.name
    twice = differentiate(once.backward, once.cotangent, once.gradient)
    y, *saved = run(once.forward, {"x": x})
    tangent = rng.normal(size=x.shape).astype(np.float32)
    feeds = {once.cotangent: np.zeros_like(y), **dict(zip(once.saved, saved, strict=True))}
    needed = {each.name for each in twice.forward.graph.input}
    _, *saved = run(twice.forward, {k: v for k, v in feeds.items() if k in needed})
    feeds |= dict(zip(twice.saved, saved, strict=True))
    feeds[twice.cotangent] = tangent
    needed = {each.name for each in twice.backward.graph.input}
    (pushed,) = run(twice.backward, {k: v for k, v in feeds.items() if k in needed})
    inside = (np.abs(x) < 0.5) * tangent
    expected = (1 - y**2) * (inside.reshape(3, 6) @ constants["w"])
    np.testing.assert_allclose(pushed, expected, rtol=1e-5, atol=1e-6)


def test_names_and_order_of_outputs(build):
    model = build(chain("Exp", "Tanh"), np.zeros((2, 3), np.float32), {}, 17, ["N", 3])
    derivative = differentiate(model, "x", "y")
    forward, backward = derivative.forward.graph, derivative.backward.graph
    assert [o.name for o in forward.output] == ["y", *derivative.saved]
    assert [i.name for i in backward.input] == [derivative.cotangent, *derivative.saved]
    assert [o.name for o in backward.output] == [derivative.gradient]
    onnx.checker.check_model(derivative.forward, full_check=True)
    onnx.checker.check_model(derivative.backward, full_check=True)


def test_the_model_itself_is_left_alone(build):
    model = build(chain("Exp", "Relu"), np.zeros((2, 3), np.float32), {}, 17, None)
    before = model.SerializeToString(deterministic=True)
    differentiate(model, "x", "y")
    assert model.SerializeToString(deterministic=True) == before


def test_other_outputs_are_pruned(build):
    nodes = [*chain("Exp"), helper.make_node("NoSuchOperator", ["x"], ["z"])]
    model = build(nodes, np.zeros(3, np.float32), {}, 17, None)
    derivative = differentiate(model, "x", "y")
    assert [node.op_type for node in derivative.forward.graph.node][:1] == ["Exp"]
    assert "NoSuchOperator" not in {node.op_type for node in derivative.forward.graph.node}


def test_output_and_input_may_be_saved_themselves(build):
    """Exp needs its output, Log its input; both are graph outputs or inputs already."""
    x = np.float32([0.5, 2.0])
    for op_type, expected in [("Exp", np.exp(x)), ("Log", 1 / x)]:
        model = build(chain(op_type), x, {}, 17, None)
        np.testing.assert_allclose(gradient(differentiate(model, "x", "y"), x)[1], expected, 1e-6)


def test_gradient_of_the_identity_is_the_cotangent(build):
    x = np.float32([1.0, 2.0])
    model = build(chain("Identity"), x, {}, 17, None)
    dy = np.float32([3.0, 4.0])
    np.testing.assert_array_equal(gradient(differentiate(model, "x", "y"), x, dy)[1], dy)


def test_an_inner_tensor_may_be_differentiated(build):
    x = np.float32([0.3])
    model = build(chain("Exp", "Tanh"), x, {}, 17, None)
    y, dx = gradient(differentiate(model, "x", "t1"), x)
    np.testing.assert_allclose(dx, y)


def test_initializers_listed_as_inputs():
    weight = numpy_helper.from_array(np.float32([2.0, 3.0]), "w")
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "w"], ["y"])],
        "old",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [2]),
            helper.make_tensor_value_info("w", TensorProto.FLOAT, [2]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])],
        [weight],
    )
    model = helper.make_model(graph, ir_version=3, opset_imports=[helper.make_opsetid("", 7)])
    derivative = differentiate(model, "x", "y")
    assert [i.name for i in derivative.forward.graph.input] == ["x"]
    np.testing.assert_array_equal(gradient(derivative, np.float32([1, 1]))[1], [2, 3])


def test_a_second_input_is_data(build):
    model = build([helper.make_node("Mul", ["x", "b"], ["y"])], np.float32([1, 2]), {}, 17, None)
    model.graph.input.append(helper.make_tensor_value_info("b", TensorProto.FLOAT, [2]))
    derivative = differentiate(model, "x", "y")
    b = np.float32([5, 7])
    np.testing.assert_array_equal(gradient(derivative, np.float32([1, 2]), feeds={"b": b})[1], b)


def test_batch_may_grow_between_calls(build):
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], strides=[2, 2]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("MaxPool", ["r"], ["p"], kernel_shape=[2, 2]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Softmax", ["f"], ["y"]),
    ]
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 2, 9, 9)).astype(np.float32)
    weight = rng.normal(size=(4, 2, 3, 3))
    derivative = differentiate(build(nodes, x, {"w": weight}, 17, ["N", 2, 9, 9]), "x", "y")
    dy = rng.normal(size=(3, 36)).astype(np.float32)
    _, together = gradient(derivative, x, dy)
    alone = [gradient(derivative, x[i : i + 1], dy[i : i + 1])[1] for i in range(3)]
    np.testing.assert_allclose(together, np.concatenate(alone), atol=1e-6)


def test_half_precision(build):
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Clip", ["c", "zero", "six"], ["y"]),
    ]
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1, 2, 6, 6))
    constants = {"w": rng.normal(size=(3, 2, 3, 3)), "zero": np.array(0.0), "six": np.array(6.0)}
    half, single = (
        gradient(
            differentiate(build(nodes, x.astype(t), constants, 17, None), "x", "y"), x.astype(t)
        )
        for t in (np.float16, np.float32)
    )
    assert half[1].dtype == np.float16
    np.testing.assert_allclose(half[1], single[1], atol=0.02)


def test_model_local_functions_are_inlined(build):
    body = helper.make_function(
        "local",
        "Swishy",
        ["a"],
        ["b"],
        [helper.make_node("Sigmoid", ["a"], ["s"]), helper.make_node("Mul", ["a", "s"], ["b"])],
        [helper.make_opsetid("", 17)],
    )
    nodes = [
        helper.make_node("Swishy", ["x"], ["h"], domain="local"),
        helper.make_node("Swishy", ["h"], ["y"], domain="local"),
    ]
    x = np.float32([0.4, -1.0])
    model = build(nodes, x, {}, 17, None)
    model.functions.append(body)
    model.opset_import.append(helper.make_opsetid("local", 1))
    y, dx = gradient(differentiate(model, "x", "y"), x)
    step = np.float32(1e-2)
    ahead, behind = (run(model, {"x": x + s})[0] for s in (step, -step))
    np.testing.assert_allclose(dx, (ahead - behind) / (2 * step), atol=1e-3)
    np.testing.assert_allclose(y, run(model, {"x": x})[0], rtol=1e-6)


def test_weights_in_external_files_stay_there(build, tmp_path):
    rng = np.random.default_rng(0)
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], group=2, pads=[1, 1, 1, 1])]
    x = rng.normal(size=(1, 4, 5, 5)).astype(np.float32)
    model = build(nodes, x, {"w": rng.normal(size=(6, 2, 3, 3))}, 17, None)
    expected = gradient(differentiate(model, "x", "y"), x)[1]
    onnx.save_model(
        model, tmp_path / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0
    )
    light = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    assert missing_rules(light, "x", "y") == ()
    derivative = differentiate(light, "x", "y")
    (weight,) = (t for t in derivative.backward.graph.initializer if t.name == "w")
    assert weight.data_location == TensorProto.EXTERNAL
    (tmp_path / "b.onnx").write_bytes(derivative.backward.SerializeToString())
    backward = ort.InferenceSession(tmp_path / "b.onnx")
    (dx,) = backward.run(None, {derivative.cotangent: np.ones((1, 6, 5, 5), np.float32)})
    np.testing.assert_allclose(dx, expected, atol=1e-5)


def test_shapes_computed_at_run_time_find_their_rank(build):
    """As older exporters write `x.view(x.size(0), -1, 2)`."""
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "i"], ["n"], axis=0),
        helper.make_node("Unsqueeze", ["n"], ["n1"], axes=[0]),
        helper.make_node("Concat", ["n1", "minus", "two"], ["shape"], axis=0),
        helper.make_node("Reshape", ["x", "shape"], ["r"]),
        helper.make_node("Softmax", ["r"], ["y"], axis=2),
    ]
    constants = {
        "i": np.array(0, np.int64),
        "minus": np.array([-1], np.int64),
        "two": np.array([2], np.int64),
    }
    x = np.random.default_rng(0).normal(size=(3, 2, 4)).astype(np.float32)
    derivative = differentiate(build(nodes, x, constants, 9, ["N", 2, 4]), "x", "y")
    dy = np.random.default_rng(1).normal(size=(3, 4, 2)).astype(np.float32)
    y, dx = gradient(derivative, x, dy)
    expected = y * (dy - (y * dy).sum(2, keepdims=True))
    np.testing.assert_allclose(dx, expected.reshape(x.shape), atol=1e-6)


def test_a_filled_matrix_is_no_vector(build):
    """BEiT's relative positions start from one."""
    fill = numpy_helper.from_array(np.array([0], np.int64))
    nodes = [
        helper.make_node("ConstantOfShape", ["sides"], ["filled"], value=fill),
        helper.make_node("Cast", ["filled"], ["zeros"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["x", "zeros"], ["y"]),
    ]
    model = build(nodes, np.zeros((3, 2), np.float32), {"sides": np.array([3, 2])}, 17, None)
    assert Graph(model, "y").value("filled").shape == (3, 2)
    assert missing_rules(model, "x", "y") == ()


def test_a_long_range_is_whole(build):
    nodes = [
        helper.make_node("Range", ["zero", "count", "one"], ["steps"]),
        helper.make_node("Cast", ["steps"], ["values"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["x", "values"], ["y"]),
    ]
    constants = {"zero": np.array(0), "count": np.array(200), "one": np.array(1)}
    model = build(nodes, np.zeros((1, 200), np.float32), constants, 17, ["N", 200])
    np.testing.assert_array_equal(Graph(model, "y").value("steps"), np.arange(200))
    assert missing_rules(model, "x", "y") == ()


def test_a_shape_behind_identity_is_followed(build):
    """The older exporter shares equal initializers through Identity, which ONNX does not follow."""
    nodes = [
        helper.make_node("Identity", ["shared"], ["sides"]),
        helper.make_node("Reshape", ["flat", "sides"], ["kernel"]),
        helper.make_node("Conv", ["x", "kernel"], ["y"]),
    ]
    constants = {"shared": np.array([4, 3, 2, 2]), "flat": np.random.normal(size=(1, 4, 12))}
    model = build(nodes, np.zeros((1, 3, 5, 5), np.float32), constants, 17, ["N", 3, "H", "W"])
    assert Graph(model, "y").type("kernel").static == (4, 3, 2, 2)
    assert missing_rules(model, "x", "y") == ()


def test_stale_shapes_in_the_file_are_not_believed(build):
    """A file whose batch was opened after export may still say 1 inside."""
    nodes = [helper.make_node("Exp", ["x"], ["e"]), helper.make_node("Mul", ["e", "e"], ["y"])]
    x = np.ones((3, 2), np.float32)
    model = build(nodes, x, {}, 17, ["N", 2])
    model.graph.value_info.append(helper.make_tensor_value_info("e", TensorProto.FLOAT, [1, 2]))
    derivative = differentiate(model, "x", "y")
    y, dx = gradient(derivative, x)
    np.testing.assert_allclose(dx, 2 * y, rtol=1e-6)


def test_gradient_of_nothing_has_its_shape(build):
    node = helper.make_node("ReduceSum", ["x", "axes"], ["y"])
    x = np.zeros((2, 0, 4), np.float32)
    derivative = differentiate(build([node], x, {"axes": np.array([1])}, 18, None), "x", "y")
    _, dx = gradient(derivative, x)
    assert dx.shape == x.shape


# -- branches


def squeezed_if_it_can_be(build, x, dims):
    """As an exporter writes `x.squeeze(1)`: only where the axis has length 1."""
    kinds = [helper.make_empty_tensor_value_info(name) for name in ("r", "k")]
    axes = numpy_helper.from_array(np.array([1]), "axes")
    squeeze = helper.make_node("Squeeze", ["e", "axes"], ["r"])
    keep = helper.make_node("Identity", ["e"], ["k"])
    nodes = [
        helper.make_node("Exp", ["x"], ["e"]),
        helper.make_node("Shape", ["e"], ["s"], start=1, end=2),
        helper.make_node("Equal", ["s", "one"], ["is_one"]),
        helper.make_node(
            "If",
            ["is_one"],
            ["i"],
            name="the branch",
            then_branch=helper.make_graph([squeeze], "then", [], kinds[:1], [axes]),
            else_branch=helper.make_graph([keep], "else", [], kinds[1:]),
        ),
        helper.make_node("Mul", ["i", "i"], ["y"]),
    ]
    return build(nodes, x, {"one": np.array([1])}, 17, dims)


@pytest.mark.parametrize("shape", [(2, 1, 3), (2, 2, 3)])
def test_a_branch_that_is_always_taken_is_followed(build, shape):
    x = np.linspace(-1, 1, int(np.prod(shape)), dtype=np.float32).reshape(shape)
    derivative = differentiate(squeezed_if_it_can_be(build, x, None), "x", "y")
    y, dx = gradient(derivative, x)
    np.testing.assert_allclose(y.reshape(shape), np.exp(2 * x), rtol=1e-5)
    np.testing.assert_allclose(dx, 2 * np.exp(2 * x), rtol=1e-5)


def test_a_branch_that_may_go_either_way_is_refused(build):
    x = np.zeros((2, 1, 3), np.float32)
    model = squeezed_if_it_can_be(build, x, [2, "C", 3])
    with pytest.raises(UnsupportedOperatorError, match="If 'the branch'"):
        differentiate(model, "x", "y")


# -- operators that ONNX defines by others


@pytest.mark.parametrize("dims", [None, [None, 4, 6]])
@pytest.mark.parametrize("inputs", [["x", "w"], ["w", "x"]])
def test_a_definition_that_computes_its_axes(check, spread, inputs, dims):
    node = helper.make_node("RMSNormalization", inputs, ["y"], axis=1)
    check(node, spread(2, 4, 6), {"w": spread(2, 4, 6)}, opset=23, dims=dims)


def test_what_a_rule_leaves_out_comes_from_the_definition(check, spread):
    """The rule of LayerNormalization covers its first input and its first output."""
    scale = helper.make_node("LayerNormalization", ["c", "x"], ["y"])
    check(scale, spread(4), {"c": spread(3, 4)})
    spread_out = helper.make_node("LayerNormalization", ["x", "c"], ["z", "", "y"])
    check(spread_out, spread(3, 4), {"c": spread(4)}, double=False)


@pytest.mark.parametrize(
    ("op_type", "inputs", "opset"), [("Attention", ["x"] * 3, 23), ("PRelu", ["x"] * 2, 16)]
)
def test_a_definition_that_takes_a_tensor_twice_counts_it_once(
    check, spread, op_type, inputs, opset
):
    node = helper.make_node(op_type, inputs, ["y"])
    check(node, spread(1, 2, 3, 2), opset=opset, step=2e-3)


def test_a_definition_by_newer_operators_is_defined_in_turn(build):
    """SwiGLU is defined by Swish, which the backward graph's opset does not have."""
    node = helper.make_node("SwiGLU", ["x", "c"], ["y"])
    x = np.array([[-1.0, 0.5]], np.float32)
    c = np.array([[2.0, 3.0]], np.float32)
    derivative = differentiate(build([node], x, {"c": c}, 28, None), "x", "y")
    feeds = {name: {"x": x, "c": c}[name] for name in derivative.saved if name in ("x", "c")}
    cotangent = {derivative.cotangent: np.ones_like(x)}
    alias = {name: x for name in derivative.saved if name not in feeds}
    (dx,) = run(derivative.backward, cotangent | feeds | alias)
    sigmoid = 1 / (1 + np.exp(-x))
    np.testing.assert_allclose(dx, c * (sigmoid + x * sigmoid * (1 - sigmoid)), atol=1e-6)


def test_an_input_that_does_not_matter_gets_no_gradient(build):
    """The scores that Attention hands out do not depend on its values."""
    q = np.ones((1, 1, 2, 3), np.float32)
    node = helper.make_node("Attention", ["c", "c", "x"], ["", "", "", "y"])
    model = build([node], q, {"c": q}, 24, None)
    with pytest.raises(UnsupportedOperatorError, match="does not depend on 'x'"):
        differentiate(model, "x", "y")


def test_a_row_that_is_masked_altogether_passes_nothing_back(build):
    """Softmax makes it NaN, and a Where puts 0 in its place."""
    nodes = [
        helper.make_node("Where", ["mask", "x", "never"], ["m"]),
        helper.make_node("Softmax", ["m"], ["p"], axis=-1),
        helper.make_node("IsNaN", ["p"], ["bad"]),
        helper.make_node("Where", ["bad", "zero", "p"], ["y"]),
    ]
    mask = np.array([[True, True], [False, False]])
    constants = {"mask": mask, "never": np.array(-np.inf), "zero": np.array(0.0)}
    x = np.array([[0.3, -0.2], [1.0, 2.0]], np.float32)
    derivative = differentiate(build(nodes, x, constants, 17, None), "x", "y")
    y, dx = gradient(derivative, x, np.array([[1.0, 0.0], [1.0, 0.0]], np.float32))
    slope = y[0, 0] * y[0, 1]
    np.testing.assert_allclose(dx, [[slope, -slope], [0, 0]], atol=1e-6)


def test_a_definition_by_a_loop_is_refused(build, monkeypatch):
    """Its body reads the step, so that taking the step for unused would be wrong."""
    monkeypatch.delitem(RULES._table, ("", "Range"))
    node = helper.make_node("Range", ["zero", "one", "x"], ["y"], name="the steps")
    constants = {"zero": np.array(0.0), "one": np.array(1.0)}
    model = build([node], np.array(0.3, np.float32), constants, 17, None)
    with pytest.raises(
        UnsupportedOperatorError, match="Range 'the steps': its definition requires Loop"
    ):
        differentiate(model, "x", "y")


def test_no_definition_is_asked_for_without_types(build):
    """Of a sequence none is known here, and ONNX would not survive the question."""
    body = helper.make_graph(
        [helper.make_node("Exp", ["part"], ["mapped"])],
        "body",
        *([helper.make_tensor_value_info(n, TensorProto.FLOAT, [1])] for n in ("part", "mapped")),
    )
    nodes = [
        helper.make_node("SplitToSequence", ["x"], ["parts"], axis=0),
        helper.make_node("SequenceMap", ["parts"], ["mapped"], name="the map", body=body),
        helper.make_node("ConcatFromSequence", ["mapped"], ["y"], axis=0),
    ]
    model = build(nodes, np.arange(2, dtype=np.float32), {}, 17, None)
    why = {rule.node: rule.why for rule in missing_rules(model, "x", "y")}
    assert "type of 'parts' is unknown" in why["the map"]


# -- refusals


def test_missing_operators_are_all_named(build):
    nodes = [
        helper.make_node("Unique", ["x"], ["u"], name="the set"),
        helper.make_node("SplitToSequence", ["x"], ["s"], name="the parts", axis=0),
        helper.make_node("ConcatFromSequence", ["s"], ["p"], name="the whole", axis=0),
        helper.make_node("Mul", ["u", "p"], ["y"]),
    ]
    model = build(nodes, np.arange(2, dtype=np.float32), {}, 17, None)
    missing = missing_rules(model, "x", "y")
    assert {rule.op_type for rule in missing} == {n.op_type for n in nodes[:3]}
    assert {rule.node for rule in missing} == {"the set", "the parts", "the whole"}
    with pytest.raises(UnsupportedOperatorError, match="Unique 'the set'") as error:
        differentiate(model, "x", "y")
    assert "\n" not in str(error.value)


def test_foreign_domains_are_named(build):
    node = helper.make_node("Magic", ["x"], ["y"], domain="com.example")
    model = build([node], np.zeros(2, np.float32), {}, 17, None)
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    (missing,) = missing_rules(model, "x", "y")
    assert (missing.domain, missing.op_type) == ("com.example", "Magic")


@pytest.mark.parametrize("op_type", ["ArgMax", "Shape", "IsNaN", "Sign"])
def test_where_the_gradient_ends_is_said(build, op_type):
    node = helper.make_node(op_type, ["x"], ["y"], name="the end")
    model = build([node], np.zeros((2, 2), np.float32), {}, 17, None)
    (missing,) = missing_rules(model, "x", "y")
    assert missing.node == "the end"
    with pytest.raises(UnsupportedOperatorError, match="no gradient"):
        differentiate(model, "x", "y")


def test_uncovered_attributes_are_refused(build):
    node = helper.make_node("Conv", ["x", "w"], ["y"], dilations=[2, 2], auto_pad="SAME_UPPER")
    x = np.zeros((1, 1, 4, 4), np.float32)
    model = build([node], x, {"w": np.ones((1, 1, 3, 3))}, 17, ["N", 1, "H", "W"])
    (missing,) = missing_rules(model, "x", "y")
    assert "auto_pad" in missing.why


def test_unknown_names_are_refused(build):
    model = build(chain("Exp"), np.zeros(2, np.float32), {}, 17, None)
    with pytest.raises(ModelError, match=r"no input 'z'.*x"):
        differentiate(model, "z", "y")
    with pytest.raises(ModelError, match="'z'"):
        differentiate(model, "x", "z")


@pytest.mark.parametrize("seed", range(4))
def test_nodes_in_any_order_give_the_same_gradient(build, seed):
    """Converters append Casts at the end; ONNX Runtime does not mind."""
    x = np.float32([[0.3, -0.4, 1.2]])
    model = build(chain("Exp", "Tanh", "Sigmoid", "Neg"), x, {}, 17, None)
    expected = gradient(differentiate(model, "x", "y"), x)
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(nodes[i] for i in np.random.default_rng(seed).permutation(len(nodes)))
    assert not missing_rules(model, "x", "y")
    for found, wanted in zip(gradient(differentiate(model, "x", "y"), x), expected, strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_nodes_that_wait_for_each_other_are_refused(build):
    nodes = [
        helper.make_node("Add", ["x", "b"], ["a"], name="first"),
        helper.make_node("Neg", ["a"], ["b"], name="second"),
        helper.make_node("Neg", ["b"], ["y"], name="third"),
    ]
    with pytest.raises(ModelError, match=r"first|second"):
        missing_rules(build(nodes, np.float32([1.0]), {}, 17, None), "x", "y")


def test_a_long_vector_costs_no_memory_and_keeps_its_type(build):
    """ONNX's data propagation takes some 70 bytes for each value of a vector that is gathered."""
    length = 20_000_000
    nodes = [
        helper.make_node("Gather", ["long", "place"], ["one"]),
        helper.make_node("Mul", ["x", "one"], ["y"]),
    ]
    model = build(nodes, np.float32([2.0, 3.0]), {"place": np.array([7])}, 17, None)
    long = onnx.TensorProto(name="long", data_type=TensorProto.FLOAT, dims=[length])
    long.raw_data = bytes(4 * length)
    model.graph.initializer.append(long)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    graph = Graph(model, "y")
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert graph.type("long").static == (length,)
    assert graph.type("one").static == (1,)
    assert grown < 500_000  # KiB; twice the vector and more would be 1.4 million


@pytest.mark.parametrize("behind", ["Identity", "Cast", "DequantizeLinear"])
def test_constants_behind_other_operators(build, behind):
    """The bounds of a Clip, the weights of a product and a shape, each made by an operator."""
    attributes = {"to": TensorProto.FLOAT} if behind == "Cast" else {}
    stored = {"Identity": np.float32, "Cast": np.float16, "DequantizeLinear": np.int8}[behind]
    values = {"low": [0], "w": [[2, -1], [1, 3]]}
    nodes = [
        helper.make_node(
            behind,
            [name, "one"] if behind == "DequantizeLinear" else [name],
            [f"{name}_f"],
            **attributes,
        )
        for name in values
    ]
    nodes += [
        helper.make_node("Identity", ["shape"], ["shape_i"]),
        helper.make_node("Squeeze", ["low_f"], ["bound"]),
        helper.make_node("Reshape", ["x", "shape_i"], ["r"]),
        helper.make_node("MatMul", ["r", "w_f"], ["m"]),
        helper.make_node("Clip", ["m", "bound"], ["y"]),
    ]
    x = np.float32([1.0, -2.0, 0.5, 1.0])
    model = build(nodes, x, {"one": np.array(1.0), "shape": np.array([-1, 2])}, 17, None)
    model.graph.initializer.extend(
        numpy_helper.from_array(np.array(value, stored), name) for name, value in values.items()
    )
    _, dx = gradient(differentiate(model, "x", "y"), x)
    np.testing.assert_allclose(dx, [0, 0, 1, 4])  # products [0, -7], [2, 2.5]


def _control_flow(op_type):
    body_in = {
        "If": [],
        "Loop": [
            ("i", TensorProto.INT64, []),
            ("go", TensorProto.BOOL, []),
            ("s", TensorProto.FLOAT, [2]),
        ],
    }[op_type]
    source = "x" if op_type == "If" else "s"
    nodes = [helper.make_node("Exp", [source], ["t"])]
    outputs = [helper.make_tensor_value_info("t", TensorProto.FLOAT, [2])]
    if op_type == "Loop":
        nodes.append(helper.make_node("Identity", ["go"], ["on"]))
        outputs.insert(0, helper.make_tensor_value_info("on", TensorProto.BOOL, []))
    body = helper.make_graph(
        nodes, "body", [helper.make_tensor_value_info(*each) for each in body_in], outputs
    )
    if op_type == "If":
        sign = [helper.make_node("ReduceSum", ["x"], ["total"], keepdims=0)]
        sign.append(helper.make_node("Greater", ["total", "zero"], ["which"]))
        return [
            *sign,
            helper.make_node(
                "If", ["which"], ["y"], "the branch", then_branch=body, else_branch=body
            ),
        ]
    return [helper.make_node("Loop", ["times", "", "x"], ["y"], "the branch", body=body)]


@pytest.mark.parametrize("op_type", ["If", "Loop"])
def test_control_flow_is_refused_by_name(build, op_type):
    x = np.float32([1.0, -2.0])
    constants = {"zero": np.array(0.0), "times": np.array(2, np.int64)}
    model = build(_control_flow(op_type), x, constants, 17, None)
    run(model, {"x": x})
    refused = {(rule.op_type, rule.node) for rule in missing_rules(model, "x", "y")}
    assert (op_type, "the branch") in refused
    with pytest.raises(UnsupportedOperatorError, match=f"{op_type} 'the branch'"):
        differentiate(model, "x", "y")


def test_what_follows_from_a_choice_of_boxes_is_refused_by_name(build):
    nodes = [
        helper.make_node("NonMaxSuppression", ["x", "scores", "most"], ["chosen"], "the choice"),
        helper.make_node("Cast", ["chosen"], ["y"], to=TensorProto.FLOAT),
    ]
    x = np.float32([[[0, 0, 1, 1], [0, 0, 2, 2]]])
    constants = {"scores": np.array([[[0.9, 0.8]]]), "most": np.array([2], np.int64)}
    missing = missing_rules(build(nodes, x, constants, 17, None), "x", "y")
    assert "the choice" in {rule.node for rule in missing}


@pytest.mark.parametrize(
    ("op_type", "numbers"), [("Div", [4, 0]), ("Mod", [4, 0]), ("Gather", [4, 9])]
)
def test_shape_arithmetic_that_cannot_be_leaves_the_number_open(build, spread, op_type, numbers):
    """A branch that is never run may hold such."""
    nodes = [
        helper.make_node(op_type, ["a", "b"], ["side"]),
        helper.make_node("Reshape", ["x", "side"], ["y"]),
    ]
    constants = {name: np.array([number]) for name, number in zip("ab", numbers, strict=True)}
    graph = Graph(build(nodes, spread(4), constants, 17, None), "y")
    assert graph.type("y").static is None


def test_whatever_trips_the_analysis_is_a_refusal(build, spread):
    node = helper.make_node("MaxPool", ["x"], ["y"])  # without its kernel's shape
    model = build([node], spread(1, 1, 4, 4), {}, 17, None)
    for analyse in (differentiate, missing_rules):
        with pytest.raises(GradientError, match=r"analysed|MaxPool"):
            analyse(model, "x", "y")


def test_sparse_initializers_are_refused_by_name(build, spread):
    model = build([helper.make_node("MatMul", ["x", "w"], ["y"])], spread(2, 3), {}, 17, None)
    values = numpy_helper.from_array(np.ones(1, np.float32), "w")
    places = numpy_helper.from_array(np.array([1]), "places")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [3, 2]))
    with pytest.raises(UnsupportedOperatorError, match="sparse initializer 'w'"):
        differentiate(model, "x", "y")


class TestOperatorsOfOtherDomains:
    """`invented.Round` is what ONNX calls Tanh: flat by its name alone, and of no known type."""

    def model(self, declared: list[object]) -> onnx.ModelProto:
        nodes = [
            helper.make_node("Round", ["x"], ["t"], domain="invented", name="round"),
            helper.make_node("GlobalAveragePool", ["t"], ["y"]),
        ]
        x, y, t = (
            helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
            for name, shape in {"x": [2, 3, 4, 4], "y": [2, 3, 1, 1], "t": declared}.items()
        )
        info = [t] if declared else []
        graph = helper.make_graph(nodes, "invented", [x], [y], value_info=info)
        imports = [helper.make_opsetid("", 17), helper.make_opsetid("invented", 1)]
        return helper.make_model(graph, opset_imports=imports, ir_version=8)

    @pytest.fixture
    def rule(self, monkeypatch):
        monkeypatch.setattr(RULES, "_table", dict(RULES._table))

        @RULES.add("Round", domain="invented")
        def _(tape, node, dy):
            (t,) = node.outputs
            return [tape.op("Mul", dy, tape.op("Sub", tape.scalar(1, t), tape.op("Mul", t, t)))]

    @pytest.mark.parametrize("declared", [[2, 3, 4, 4], ["n", 3, "h", "w"], [7, 7, 7, 7]])
    def test_a_rule_and_a_declared_rank_are_enough(self, rule, rng, declared):
        """Declared sides may be outdated, so only the rank counts."""
        derivative = differentiate(self.model(declared), "x", "y")
        for node in derivative.forward.graph.node:
            if node.domain == "invented":
                node.domain, node.op_type = "", "Tanh"
        del derivative.forward.graph.value_info[:]
        x = rng.normal(size=(2, 3, 4, 4)).astype(np.float32)
        _, dx = gradient(derivative, x)
        np.testing.assert_allclose(dx, (1 - np.tanh(x) ** 2) / 16, rtol=1e-5)

    def test_without_a_rule_it_is_named(self):
        (missing,) = missing_rules(self.model([2, 3, 4, 4]), "x", "y")
        assert str(missing) == "invented.Round 'round': no gradient rule for this operator"

    def test_without_a_type_the_line_says_what_to_declare(self, rule):
        (missing,) = missing_rules(self.model([]), "x", "y")
        text = "invented.Round 'round': the type of its output 't' is unknown"
        assert str(missing) == f"{text}; declare it in value_info"

    def test_the_type_of_an_output_of_the_graph_is_declared_by_itself(self, rule, rng):
        model = self.model([])
        del model.graph.node[1]
        model.graph.node[0].output[0] = "y"
        model.graph.output[0].CopyFrom(
            helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 3, 4, 4])
        )
        derivative = differentiate(model, "x", "y")
        for node in derivative.forward.graph.node:
            if node.domain == "invented":
                node.domain, node.op_type = "", "Tanh"
        x = rng.normal(size=(2, 3, 4, 4)).astype(np.float32)
        _, dx = gradient(derivative, x)
        np.testing.assert_allclose(dx, 1 - np.tanh(x) ** 2, rtol=1e-5)

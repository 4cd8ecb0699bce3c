from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from ibisa_onnx.autodiff import differentiate
from ibisa_onnx.errors import UnsupportedOperatorError


def _scan(nodes, inputs, outputs, given, results, initializers=(), **attributes):
    """A Scan over a body of these nodes, whose tensors declare no types."""
    ends = [[helper.make_empty_tensor_value_info(n) for n in names] for names in (inputs, outputs)]
    body = helper.make_graph(nodes, "body", *ends, list(initializers))
    return helper.make_node("Scan", given, results, "the loop", body=body, **attributes)


def _recurrence(given, results, **attributes):
    """s' = tanh(s w + e), and s' e as a result."""
    nodes = [
        helper.make_node("MatMul", ["s", "w"], ["product"]),
        helper.make_node("Add", ["product", "e"], ["sum"]),
        helper.make_node("Tanh", ["sum"], ["t"]),
        helper.make_node("Mul", ["t", "e"], ["r"]),
    ]
    return _scan(nodes, ["s", "e"], ["t", "r"], given, results, num_scan_inputs=1, **attributes)


def _joined(*names):
    flat = [helper.make_node("Reshape", [name, "vector"], [f"{name}_flat"]) for name in names]
    return [*flat, helper.make_node("Concat", [f"{name}_flat" for name in names], ["y"], axis=0)]


VECTOR = {"vector": np.array([-1])}


@pytest.mark.parametrize("is_open", [False, True])
@pytest.mark.parametrize(("way_in", "way_out"), [(0, 0), (1, 0), (0, 1)])
@pytest.mark.parametrize(("axis_in", "axis_out"), [(0, 0), (1, 0), (-2, -1)])
def test_axes_and_directions(check, spread, axis_in, axis_out, way_in, way_out, is_open):
    node = _recurrence(
        ["start", "x"],
        ["last", "all"],
        scan_input_axes=[axis_in],
        scan_output_axes=[axis_out],
        scan_input_directions=[way_in],
        scan_output_directions=[way_out],
    )
    x = np.moveaxis(spread(4, 2, 3), 0, axis_in)
    dims = [None, None, 3] if is_open else None
    constants = {"start": spread(2, 3), "w": spread(3, 3)} | VECTOR
    check([node, *_joined("last", "all")], x, constants, dims=dims)


@pytest.mark.parametrize("result", ["last", "all"])
@pytest.mark.parametrize("wanted", ["start", "w"])
def test_initial_state_and_what_the_step_captures(check, spread, wanted, result):
    values = {"start": spread(2, 3), "w": spread(3, 3), "sequence": spread(4, 2, 3)}
    x = values.pop(wanted)
    nodes = [
        helper.make_node("Exp", ["x"], [wanted]),  # so that what is captured is computed
        _recurrence(["start", "sequence"], ["last", "all"]),
        helper.make_node("Identity", [result], ["y"]),
    ]
    check(nodes, x, values)


def test_an_input_that_is_captured_and_scanned_and_the_state(check, spread):
    nodes = [_recurrence(["w", "sequence"], ["last", "all"]), *_joined("last", "all")]
    first = [helper.make_node("Identity", ["x"], ["w"]), helper.make_node("Sin", ["x"], ["s"])]
    last = helper.make_node("Unsqueeze", ["s", "axis"], ["sequence"])
    check([*first, last, *nodes], spread(3, 3), {"axis": np.array([0])} | VECTOR)


def test_counters_and_several_states(check, spread):
    """The step's own number is a state without a gradient."""
    nodes = [
        helper.make_node("Add", ["i", "one"], ["next"]),
        helper.make_node("CastLike", ["i", "e"], ["real"]),
        helper.make_node("Mul", ["e", "real"], ["weighted"]),
        helper.make_node("Add", ["a", "weighted"], ["a_next"]),
        helper.make_node("Mul", ["b", "a"], ["b_next"]),
    ]
    one = numpy_helper.from_array(np.array(1), "one")
    names = ["i", "a", "b", "e"], ["next", "a_next", "b_next"]
    given, results = ["zero", "start", "x0", "x"], ["count", "last_a", "y"]
    loop = _scan(nodes, *names, given, results, [one], num_scan_inputs=1)
    first = helper.make_node("ReduceMean", ["x"], ["x0"], keepdims=0, axes=[0])
    constants = {"zero": np.array(0), "start": spread(3)}
    check([first, loop], spread(4, 3), constants)


def test_axes_that_the_step_captures(check, spread):
    nodes = [
        helper.make_node("Unsqueeze", ["e", "axes"], ["column"]),
        helper.make_node("MatMul", ["column", "row"], ["m"]),
        helper.make_node("Add", ["s", "m"], ["next"]),
        helper.make_node("Unsqueeze", ["next", "axes"], ["r"]),
    ]
    ends = ["s", "e"], ["next", "r"], ["start", "x"], ["last", "all"]
    constants = {"row": spread(1, 2), "start": spread(3, 2), "axes": np.array([1])}
    nodes = [_scan(nodes, *ends, num_scan_inputs=1), *_joined("last", "all")]
    check(nodes, spread(4, 3), constants | VECTOR, dims=["T", 3])


def test_without_states(check, spread):
    nodes = [helper.make_node("Softmax", ["a"], ["s"]), helper.make_node("Mul", ["s", "b"], ["r"])]
    loop = _scan(nodes, ["a", "b"], ["r"], ["x", "other"], ["y"], num_scan_inputs=2)
    check(loop, spread(4, 3), {"other": spread(4, 3)})


def test_a_step_of_an_older_opset(check, spread):
    """In opset 11 Softmax normalizes all axes, and ReduceSum takes its axes as an attribute."""
    nodes = [
        helper.make_node("Softmax", ["e"], ["p"], axis=0),
        helper.make_node("Mul", ["p", "e"], ["m"]),
        helper.make_node("ReduceSum", ["m"], ["total"], axes=[0], keepdims=0),
        helper.make_node("Add", ["total", "s"], ["next"]),
    ]
    loop = _scan(nodes, ["s", "e"], ["next"], ["start", "x"], ["y"], num_scan_inputs=1)
    check(loop, spread(3, 2, 4), {"start": spread(4)}, opset=11)


def test_what_is_closed_in_one_step_stays_so_behind_the_next(run_gradient, build):
    """The slope of the next step's root is infinite where ReLU has left a 0."""
    nodes = [
        helper.make_node("Sqrt", ["s"], ["root"]),
        helper.make_node("Sub", ["root", "e"], ["less"]),
        helper.make_node("Relu", ["less"], ["next"]),
    ]
    loop = _scan(nodes, ["s", "e"], ["next"], ["x", "steps"], ["y"], num_scan_inputs=1)
    x = np.float32([1, 16])
    model = build([loop], x, {"steps": np.array([[2.0, 2.0], [-1.0, -1.0]])}, 17, None)
    np.testing.assert_allclose(run_gradient(model, x), [0, 1 / 16 / 2**0.5], rtol=1e-5)


def _nested():
    branch = helper.make_graph(
        [helper.make_node("Exp", ["e"], ["b"])],
        "branch",
        [],
        [helper.make_tensor_value_info("b", TensorProto.FLOAT, [3])],
    )
    condition = numpy_helper.from_array(np.array(True), "which")
    node = helper.make_node("If", ["which"], ["r"], then_branch=branch, else_branch=branch)
    return _scan([node], ["e"], ["r"], ["x"], ["y"], [condition], num_scan_inputs=1)


def _of(op_type, *inputs, **attributes):
    node = helper.make_node(op_type, ["e", *inputs], ["r"], **attributes)
    return _scan([node], ["e"], ["r"], ["x"], ["y"], num_scan_inputs=1)


def _rounded():
    nodes = [
        helper.make_node("QuantizeLinear", ["e", "scale"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale"], ["d"]),
        helper.make_node("Mul", ["d", "e"], ["r"]),
    ]
    return _scan(nodes, ["e"], ["r"], ["x"], ["y"], num_scan_inputs=1)


@pytest.mark.parametrize(
    ("node", "words"),
    [
        (_nested(), "If inside it"),
        (_of("BitCount", domain="custom"), "BitCount inside it"),
        (_of("Unique"), "no gradient rule for this operator"),
        (_of("RandomNormalLike"), "RandomNormalLike inside it"),
        (_rounded(), "QuantizeLinear inside it"),
    ],
)
def test_refusals(build, spread, node, words):
    constants = {"scale": np.array(0.1)}
    model = build([node], spread(4, 3), constants, 17, None, [helper.make_opsetid("custom", 1)])
    with pytest.raises(UnsupportedOperatorError, match=f"Scan 'the loop'.*{words}"):
        differentiate(model, "x", "y")


def test_a_step_that_passes_nothing(build, spread):
    nodes = [helper.make_node("Shape", ["e"], ["n"]), helper.make_node("Cast", ["n"], ["r"], to=1)]
    loop = _scan(nodes, ["e"], ["r"], ["x"], ["y"], num_scan_inputs=1)
    model = build([loop], spread(4, 3), {}, 17, None)
    with pytest.raises(UnsupportedOperatorError, match="does not depend on 'x'"):
        differentiate(model, "x", "y")


def test_a_sequence_read_twice(check, spread):
    nodes = [
        helper.make_node("Mul", ["a", "b"], ["m"]),
        helper.make_node("Add", ["m", "s"], ["t"]),
        helper.make_node("Identity", ["t"], ["r"]),
    ]
    names = ["s", "a", "b"], ["t", "r"], ["start", "x", "x"], ["last", "y"]
    check(_scan(nodes, *names, num_scan_inputs=2), spread(4, 3), {"start": spread(3)})

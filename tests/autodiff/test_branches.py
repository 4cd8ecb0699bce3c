from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from ibisa_onnx.autodiff import differentiate, missing_rules


def branch(name, op_type, constant):
    """One operation on `t` from outside, with a constant of the branch's own."""
    value = numpy_helper.from_array(np.float32([constant]), f"{name}/factor")
    node = helper.make_node(op_type, ["t", f"{name}/factor"], [f"{name}/result"])
    result = helper.make_tensor_value_info(f"{name}/result", TensorProto.FLOAT, None)
    return helper.make_graph([node], name, [], [result], [value])


def model(build, condition, constants):
    """exp(3 t) of t = 2 x where `c` holds, else exp(t / 7)."""
    branches = {"then_branch": branch("a", "Mul", 3), "else_branch": branch("b", "Div", 7)}
    nodes = [
        helper.make_node("Mul", ["x", "two"], ["t"]),
        *condition,
        helper.make_node("If", ["c"], ["chosen"], name="choice", **branches),
        helper.make_node("Exp", ["chosen"], ["y"]),
    ]
    x = np.zeros((2, 3), np.float32)
    return build(nodes, x, {"two": np.array([2.0]), **constants}, 17, ["N", 3])


@pytest.mark.parametrize(("rank", "slope"), [(1, 6.0), (2, 2 / 7)])
def test_a_rank_chooses_the_branch(build, rank, slope):
    """As the older exporter writes `tile` and `squeeze`."""
    condition = [
        helper.make_node("Shape", ["t"], ["s"]),
        helper.make_node("Size", ["s"], ["r"]),
        helper.make_node("Greater", ["r", "limit"], ["c"]),
    ]
    derivative = differentiate(model(build, condition, {"limit": np.array(rank)}), "x", "y")
    x = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    forward = ort.InferenceSession(derivative.forward.SerializeToString())
    backward = ort.InferenceSession(derivative.backward.SerializeToString())
    y, *saved = forward.run(None, {"x": x})
    feeds = dict(zip(derivative.saved, saved, strict=True))
    (dx,) = backward.run(None, {derivative.cotangent: np.ones_like(y), **feeds})
    np.testing.assert_allclose(y, np.exp(slope * x), rtol=1e-5)
    np.testing.assert_allclose(dx, slope * y, rtol=1e-5)


def test_a_choice_at_run_time_is_refused(build):
    condition = [
        helper.make_node("ReduceSum", ["t"], ["total"], keepdims=0),
        helper.make_node("Greater", ["total", "limit"], ["c"]),
    ]
    (missing,) = missing_rules(model(build, condition, {"limit": np.array(0.5)}), "x", "y")
    assert (missing.op_type, missing.node) == ("If", "choice")

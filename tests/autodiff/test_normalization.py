from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
from onnx import helper

from ibisa_onnx.autodiff import differentiate


@pytest.mark.parametrize("opset", [7, 9, 14, 17])
def test_batch_normalization(check, spread, opset):
    node = helper.make_node("BatchNormalization", ["x", "s", "b", "m", "v"], ["y"], epsilon=1e-3)
    constants = {
        "s": spread(3),
        "b": spread(3),
        "m": spread(3),
        "v": spread(3, low=0.5, high=2.0),
    }
    check(node, spread(2, 3, 2, 2), constants, opset=opset)
    check(node, spread(2, 3), constants, opset=opset)


NORMS = {
    "BatchNormalization": ["image", "scale", "bias", "mean", "variance"],
    "InstanceNormalization": ["image", "scale", "bias"],
    "LayerNormalization": ["image", "scale", "bias"],
}


@pytest.mark.parametrize(
    ("op_type", "wanted"), [(op_type, name) for op_type in NORMS for name in NORMS[op_type][1:]]
)
def test_computed_parameters(check, spread, op_type, wanted):
    names = NORMS[op_type]
    inputs = ["x" if name == wanted else name for name in names]
    node = helper.make_node(op_type, inputs, ["y"], epsilon=1e-2)
    values = {name: spread(3) for name in names} | {"image": spread(2, 3, 4, 3)}
    values["variance"] = spread(3, low=0.5)
    constants = {name: values[name] for name in names if name != wanted}
    check(node, values[wanted], constants)


def test_image_and_parameters_at_once(check, spread):
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["scale"], axes=[0, 2, 3], keepdims=0),
        helper.make_node("InstanceNormalization", ["x", "scale", "scale"], ["y"]),
    ]
    check(nodes, spread(2, 3, 3, 2), dims=["N", 3, "H", "W"])


@pytest.mark.parametrize("is_open", [False, True])
def test_instance_normalization(check, spread, is_open):
    node = helper.make_node("InstanceNormalization", ["x", "s", "b"], ["y"], epsilon=1e-2)
    dims = ["N", 3, "H", "W"] if is_open else None
    check(node, spread(2, 3, 4, 2), {"s": spread(3), "b": spread(3)}, dims=dims)


@pytest.mark.parametrize(("axis", "shape"), [(-1, (4,)), (1, (3, 4)), (-2, (3, 4))])
@pytest.mark.parametrize("bias", [False, True])
def test_layer_normalization(check, spread, axis, shape, bias):
    inputs = ["x", "s", "b"] if bias else ["x", "s"]
    node = helper.make_node("LayerNormalization", inputs, ["y"], axis=axis, epsilon=1e-2)
    constants = {name: spread(*shape) for name in inputs[1:]}
    check(node, spread(2, 3, 4), constants)


@pytest.mark.parametrize("opset", [18, 21])
def test_group_normalization_by_its_definition(check, spread, opset):
    node = helper.make_node(
        "GroupNormalization", ["x", "s", "b"], ["y"], num_groups=2, epsilon=1e-2
    )
    channels = 2 if opset == 18 else 4
    constants = {"s": spread(channels), "b": spread(channels)}
    # From opset 21 on it computes in float32 whatever its input is.
    check(node, spread(2, 4, 3, 2), constants, opset=opset, double=False)


@pytest.mark.parametrize("p", [1, 2])
def test_lp_normalization(check, spread, p):
    check(helper.make_node("LpNormalization", ["x"], ["y"], axis=1, p=p), spread(2, 5, 3))


@pytest.mark.parametrize("p", [1, 2])
def test_zeros_normalized_have_no_gradient(build, p):
    x = np.zeros((2, 3), np.float32)
    x[0] = 3, -4, 1
    model = build([helper.make_node("LpNormalization", ["x"], ["y"], p=p)], x, {}, 17, None)
    derivative = differentiate(model, "x", "y")
    forward = ort.InferenceSession(derivative.forward.SerializeToString())
    backward = ort.InferenceSession(derivative.backward.SerializeToString())
    _, *saved = forward.run(None, {"x": x})
    feeds = dict(zip(derivative.saved, saved, strict=True))
    (dx,) = backward.run(None, {derivative.cotangent: np.float32([[1, 2, 3]] * 2), **feeds})
    assert dx[0].all()
    assert np.all(dx[1] == 0)


@pytest.mark.parametrize("size", [1, 3, 5])
def test_local_response_normalization(check, spread, size):
    node = helper.make_node("LRN", ["x"], ["y"], size=size, alpha=0.5, beta=0.7, bias=1.5)
    check(node, spread(1, 6, 2, 3), dims=["N", "C", "H", "W"])


def test_mean_variance_normalization_by_its_definition(check, spread):
    check(helper.make_node("MeanVarianceNormalization", ["x"], ["y"]), spread(2, 2, 3, 2))


@pytest.mark.parametrize("axis", [-1, 1])
def test_root_mean_square_normalization_by_its_definition(check, spread, axis):
    node = helper.make_node("RMSNormalization", ["x", "s"], ["y"], axis=axis, epsilon=1e-2)
    check(
        node,
        spread(2, 3, 4),
        {"s": spread(*((3, 4) if axis == 1 else (4,)))},
        opset=23,
        double=False,
    )

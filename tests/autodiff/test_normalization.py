from __future__ import annotations

import pytest
from onnx import helper


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


@pytest.mark.parametrize("size", [1, 3, 5])
def test_local_response_normalization(check, spread, size):
    node = helper.make_node("LRN", ["x"], ["y"], size=size, alpha=0.5, beta=0.7, bias=1.5)
    check(node, spread(1, 6, 2, 3), dims=["N", 6, "H", "W"])


def test_mean_variance_normalization_by_its_definition(check, spread):
    check(helper.make_node("MeanVarianceNormalization", ["x"], ["y"]), spread(2, 2, 3, 2))

"""Scores of places: as probabilities, their derivatives, and the same as ONNX nodes."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from ibisa_onnx.targets.class_scores import Activation
from ibisa_onnx.targets.regions import Region, RegionObjective
from ibisa_onnx.targets.score_maps import ScoreMaps

KINDS = {
    Activation.SOFTMAX: lambda x: x,
    Activation.LOG: lambda x: x - np.log(np.exp(x).sum(1, keepdims=True)),
    Activation.PROBABILITY: lambda x: np.exp(x) / np.exp(x).sum(1, keepdims=True),
    Activation.SIGMOID: lambda x: 1 / (1 + np.exp(-x)),
    Activation.SIGMOID_LOGIT: lambda x: x,
}


def objective(
    activation: Activation, *, last: bool = False, classes: int = 3
) -> tuple[RegionObjective, np.ndarray]:
    """An objective of class 0 or 1, and two rows of values."""
    rng = np.random.default_rng(1)
    values = KINDS[activation](rng.normal(0, 1, (2, classes, 4, 5))).astype(np.float32)
    values = np.ascontiguousarray(np.moveaxis(values, 1, 3)) if last else values
    region = Region.of(rng.random((4, 5)) > 0.5)
    return RegionObjective(ScoreMaps("y", classes, last, activation), classes // 2, region), values


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("activation", KINDS)
def test_the_score_is_the_mean_log_probability_over_the_region(activation: Activation, last: bool):
    made, values = objective(activation, last=last)
    x = (np.moveaxis(values, 3, 1) if last else values).astype(np.float64)
    p = {
        Activation.SOFTMAX: np.exp(x) / np.exp(x).sum(1, keepdims=True),
        Activation.LOG: np.exp(x),
        Activation.SIGMOID_LOGIT: 1 / (1 + np.exp(-x)),
    }.get(activation, x)[:, 1]
    wanted = np.log(p)[:, made.region.mask].mean(1)
    np.testing.assert_allclose(made.score({"y": values}), wanted, rtol=1e-5)
    np.testing.assert_allclose(made.probability({"y": values}), np.exp(wanted), rtol=1e-5)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("activation", KINDS)
def test_its_derivative_is_that_of_the_score(activation: Activation, last: bool):
    made, values = objective(activation, last=last)
    found = made.vjp({"y": values})["y"]
    assert (found.shape, found.dtype) == (values.shape, np.float32)
    step = 1e-3
    for place in np.ndindex(values.shape[1:]):
        up, down = values.copy(), values.copy()
        up[(slice(None), *place)] += step
        down[(slice(None), *place)] -= step
        slope = (made.score({"y": up}) - made.score({"y": down})) / (2 * step)
        np.testing.assert_allclose(found[(slice(None), *place)], slope, atol=2e-3, rtol=2e-2)


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("opset", [7, 11, 13, 21])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("activation", KINDS)
def test_it_writes_its_score_as_onnx_nodes(
    activation: Activation, last: bool, opset: int, classes: int
):
    made, values = objective(activation, last=last, classes=classes)
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "g",
        [info("x", TensorProto.FLOAT, values.shape)],
        [info("y", TensorProto.FLOAT, values.shape)],
    )
    name = made.to_onnx(graph)
    graph.output.append(info(name, TensorProto.FLOAT, [None, 1]))
    imports = [helper.make_opsetid("", opset)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=8)
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    found = session.run([name], {"x": values})[0]
    assert found.shape == (2, 1)
    np.testing.assert_allclose(found[:, 0], made.score({"y": values}), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("activation", KINDS)
def test_it_is_finite_where_the_class_is_lost_altogether(activation: Activation):
    made, values = objective(activation)
    values[:, 1] = 0 if activation in (Activation.PROBABILITY, Activation.SIGMOID) else -300
    assert np.isfinite(made.score({"y": values})).all()
    assert (made.score({"y": values}) < -20).all()
    assert np.isfinite(made.vjp({"y": values})["y"]).all()

"""Weights out of a graph and back, and sessions that are given them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from ibisa_onnx.models.onnx_session import DeployedModel
from ibisa_onnx.models.weights import give_weights, missing_weights, read_weights, take_weights

WEIGHTS = np.random.default_rng(0).normal(size=(300, 4)).astype(np.float32)


@pytest.fixture
def model():
    """Scores are the flattened image times large weights, plus a small bias."""
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w", "b"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 10, 10])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
        [numpy_helper.from_array(WEIGHTS, "w"), numpy_helper.from_array(WEIGHTS[0], "b")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def bare(model):
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    take_weights(copy, {"w", "b"})
    return copy


def test_out_and_back(model):
    taken = bare(model)
    assert missing_weights(taken) == {"w"}  # what is small stays
    assert taken.ByteSize() < 600
    weights = read_weights(model, {"w"})
    np.testing.assert_array_equal(weights["w"], WEIGHTS)
    give_weights(taken, weights)
    assert taken.SerializeToString(deterministic=True) == model.SerializeToString(
        deterministic=True
    )


def test_only_what_is_asked_for_is_taken(model):
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    take_weights(copy, {"b", "others"})
    assert copy == model


@pytest.mark.parametrize("by_value", [True, False])
@pytest.mark.cpu_provider("weights are inside the graph")
def test_a_session_is_given_them(model, by_value, monkeypatch):
    """In memory where the provider is known to take them so, else in the graph."""
    deployed = DeployedModel.open(model.SerializeToString())
    x = np.random.default_rng(1).normal(size=(2, 3, 10, 10)).astype(np.float32)
    expected = deployed.session.run(None, {"x": x})[0]
    if not by_value:
        monkeypatch.setattr("ibisa_onnx.models.onnx_session._BY_VALUE", frozenset())
    session = deployed.new_session(bare(model), read_weights(model, {"w"}))
    assert bool(session.given_weights) is by_value
    np.testing.assert_array_equal(session.run(None, {"x": x})[0], expected)


def test_types_that_numpy_lacks_stay_in_the_graph(model):
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.initializer[0].data_type = TensorProto.BFLOAT16
    take_weights(copy, {"w"})
    assert not missing_weights(copy)

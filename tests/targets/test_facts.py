"""What is known of a model before it has seen a picture, and how few passes that takes."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from ibisa_onnx.models.onnx_session import DeployedModel
from ibisa_onnx.preprocessing.spec import Preprocessing
from ibisa_onnx.targets.facts import ModelFacts

SPEC = Preprocessing(size=(8, 8), scale=1 / 255)
INNER = ["a", "b"]


@pytest.fixture
def facts():
    nodes = [
        helper.make_node("Conv", ["image", "kernel"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("GlobalAveragePool", ["b"], ["y"]),
    ]
    kernel = numpy_helper.from_array(np.ones((2, 3, 3, 3), np.float32), "kernel")
    image, y = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("image", [1, 3, 8, 8]), ("y", None))
    )
    graph = helper.make_graph(nodes, "inner", [image], [y], [kernel])
    opsets = [helper.make_opsetid("", 13)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    return ModelFacts(DeployedModel.open(model.SerializeToString(), threads=1), SPEC)


def test_shapes_of_several_tensors_take_one_pass(facts):
    assert facts.shapes([*INNER, "y"]) == {
        "a": (1, 2, 6, 6),
        "b": (1, 2, 6, 6),
        "y": (1, 2, 1, 1),
    }
    assert facts.model.passes.forward == 1


def test_a_name_that_is_no_tensor_hides_no_other_and_is_asked_for_once(facts):
    assert list(facts.shapes(["none", "a"])) == ["a"]
    spent = facts.model.passes.forward
    assert facts.shape("none") is None
    assert facts.model.passes.forward == spent


def test_under_other_preprocessing_all_is_probed_anew_by_one_pass(facts):
    facts.shapes(INNER)
    other = facts.under(Preprocessing(size=(8, 8), scale=1.0))
    assert not other.probed
    np.testing.assert_allclose(other.values(["a"])["a"], 255 * facts.values(["a"])["a"], rtol=1e-5)
    other.values(["b"])
    assert facts.model.passes.forward == 2

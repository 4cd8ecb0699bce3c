"""ONNX nodes behind a model without a graph: what they make, and that all else is the model's."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from ibisa_onnx.errors import ModelError, OutputError
from ibisa_onnx.models.function import FunctionModel, InputSpec
from ibisa_onnx.models.head import Head
from ibisa_onnx.models.headed import HeadedModel

SIDES = (3, 4, 4)
OUTPUTS = {"means": (None, "k"), "rows": (None, None, 2)}


def answers(images: np.ndarray) -> dict[str, Any]:
    means = images.mean((2, 3))
    return {"means": means, "rows": np.stack([means[:, :2], means[:, 1:]], 2)}


def write(graph: onnx.GraphProto) -> None:
    head = Head(graph)
    head.alias(head.op("Mul", "means", head.constant(2)), "twice")


@pytest.fixture
def model() -> FunctionModel:
    return FunctionModel(answers, InputSpec((None, *SIDES), outputs=OUTPUTS), max_batch=2)


def test_its_nodes_run_behind_each_call(model: FunctionModel, rng: np.random.Generator):
    headed = HeadedModel(model, ["twice"], write)
    images = rng.random((5, *SIDES), dtype=np.float32)
    found = headed.run(images, ["twice", "rows"])
    np.testing.assert_allclose(found["twice"], 2 * images.mean((2, 3)), rtol=1e-6)
    assert found["rows"].shape == (5, 2, 2)
    assert list(headed.run(images)) == ["means", "rows", "twice"]


def test_it_is_the_model_in_all_else(model: FunctionModel):
    headed = HeadedModel(model, ["twice"], write)
    headed.run(np.ones((3, *SIDES), np.float32))
    assert (model.passes.forward, model.passes.forward_calls) == (3, 2)
    assert (headed.name, headed.label, headed.max_batch) == ("answers", "answers", 2)
    assert (headed.sha256, headed.providers, headed.proto()) == (None, (), None)
    assert headed.identity.startswith(model.identity)
    assert headed.identity == HeadedModel(model, ["twice"], write).identity != model.identity
    headed.run_one_by_one("gives nonsense")
    assert model.warnings == headed.warnings
    assert headed.preferred_batch == 1


def test_an_answer_that_is_known_is_not_asked_for_again(model: FunctionModel):
    headed = HeadedModel(model, ["twice"], write)
    raw = model.run(np.ones((1, *SIDES), np.float32))
    np.testing.assert_allclose(headed.completed(raw)["twice"], np.full((1, 3), 2))
    assert model.passes.forward == 1


def test_a_tensor_that_no_node_makes_is_told_of(model: FunctionModel):
    with pytest.raises(
        OutputError, match="answers has no output 'inner', and tensors inside it cannot"
    ):
        HeadedModel(model, ["inner"], write)


def test_nodes_that_cannot_be_are_told_of(model: FunctionModel):
    def nonsense(graph: onnx.GraphProto) -> None:
        head = Head(graph)
        head.alias(head.op("Nonsense", "means"), "twice")

    with pytest.raises(ModelError, match="ONNX Runtime cannot open nodes behind answers: ") as it:
        HeadedModel(model, ["twice"], nonsense)
    assert "\n" not in str(it.value)


def test_outputs_that_do_not_go_together_are_told_of(model: FunctionModel):
    def add(graph: onnx.GraphProto) -> None:
        head = Head(graph)
        head.alias(head.op("Add", "means", "rows"), "sum")

    headed = HeadedModel(model, ["sum"], add)
    with pytest.raises(
        OutputError, match=r"the outputs of answers do not match each other: means \[1, 3\], r"
    ):
        headed.run(np.ones((1, *SIDES), np.float32), ["sum"])
    with pytest.raises(ModelError, match="answers has no output 'x'"):
        headed.run(np.ones((1, *SIDES), np.float32), ["x"])

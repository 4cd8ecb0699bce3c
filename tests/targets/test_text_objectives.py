"""What is kept of read text: numeric derivatives, ONNX nodes, and probabilities near 1."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from ibisa_onnx.targets.ctc import STEPS
from ibisa_onnx.targets.text_objectives import CharacterObjective, Place, TextObjective


def objectives() -> list[Any]:
    places = (Place(1, (0, 1, 2)), Place(2, (2, 3, 4)), Place(1, (5,)))
    box = (0.0, 0.0, 8.0, 8.0)
    return [
        CharacterObjective(places[1], "b", 2, "aba", box, (0.2, 0.0, 0.3, 1.0)),
        TextObjective(places, "aba", box, (0.2, 0.0, 0.5, 1.0), 0.5),
    ]


def log_probabilities(rows: int) -> np.ndarray:
    logits = np.random.default_rng(3).normal(0, 3, (rows, 6, 4))
    return (logits - np.logaddexp.reduce(logits, -1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("objective", objectives(), ids=["character", "text"])
def test_its_derivative_is_the_numeric_one(objective: Any):
    steps = log_probabilities(2).astype(np.float64)
    found = objective.vjp({STEPS: steps})[STEPS]
    assert (found.shape, found.dtype) == (steps.shape, np.float32)
    numeric = np.zeros_like(steps)
    for place in np.ndindex(*steps.shape[1:]):
        above, below = steps.copy(), steps.copy()
        above[(slice(None), *place)] += 1e-7
        below[(slice(None), *place)] -= 1e-7
        change = objective.score({STEPS: above}) - objective.score({STEPS: below})
        numeric[(slice(None), *place)] = change / 2e-7
    np.testing.assert_allclose(found, numeric, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("opset", [7, 11, 13, 21])
@pytest.mark.parametrize("objective", objectives(), ids=["character", "text"])
def test_its_score_is_written_as_onnx_nodes(objective: Any, opset: int):
    steps = log_probabilities(3)
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], [STEPS])],
        "g",
        [info("x", TensorProto.FLOAT, ["n", 6, 4])],
        [],
    )
    name = objective.to_onnx(graph)
    graph.output.append(info(name, TensorProto.FLOAT, [None, 1]))
    imports = [helper.make_opsetid("", opset)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=8)
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (found,) = session.run([name], {"x": steps})
    np.testing.assert_allclose(found[:, 0], objective.score({STEPS: steps}), rtol=1e-5)


def test_a_texts_probability_is_the_geometric_mean_and_its_score_what_is_lost():
    _, text = objectives()
    steps = log_probabilities(4)
    each = [place.best(steps)[0] for place in text.places]
    np.testing.assert_allclose(text.probability({STEPS: steps}), np.exp(np.mean(each, 0)))
    surest = np.zeros((1, 6, 4), np.float32)  # p = 1 in single precision
    assert np.isfinite(text.score({STEPS: surest})).all()
    assert np.isfinite(text.vjp({STEPS: surest})[STEPS]).all()

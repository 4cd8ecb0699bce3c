"""What the last operators say: every usual spelling of a norm, and its near misses."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from ibisa_onnx.models.onnx_graph import producers
from ibisa_onnx.targets.endings import (
    ends_in_probabilities,
    feeds_probabilities,
    has_unit_length,
    reads_a_line,
    selection,
)

CONSTANTS = {
    "eps": np.float32(1e-12),
    "big": np.float32(1e9),
    "two": np.float32(2),
    "half": np.float32(0.5),
    "minus": np.float32(-0.5),
    "axis": np.array([1]),
}


def graph(*steps: str) -> onnx.GraphProto:
    """Nodes as "Op in in > out, name=value" from x [N, 6] to y; `axes` is a list of one."""
    nodes = []
    for step in steps:
        left, right = step.split(" > ")
        operator, *inputs = left.split()
        out, *attributes = right.split(", ")
        given: dict[str, Any] = dict(each.split("=") for each in attributes)
        given = {k: [int(v)] if k == "axes" else int(v) for k, v in given.items()}
        nodes.append(helper.make_node(operator, inputs, [out], **given))
    return helper.make_graph(
        nodes,
        "ending",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.array(value), name) for name, value in CONSTANTS.items()],
    )


def computed(made: onnx.GraphProto, x: np.ndarray) -> np.ndarray:
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(["y"], {"x": x})[0]


NORMS = {
    "ReduceL2, Div": ["ReduceL2 x > n, axes=1", "Div x n > y"],
    "torch": [
        "ReduceL2 x > n, axes=1",
        "Clip n eps > c",
        "Shape x > s",
        "Expand c s > e",
        "Div x e > y",
    ],
    "clipped both ways": ["ReduceL2 x > n, axes=1", "Clip n eps big > c", "Div x c > y"],
    "Max": ["ReduceL2 x > n, axes=1", "Max n eps > m", "Div x m > y"],
    "LpNormalization": ["LpNormalization x > y, axis=1"],
    "ReduceSumSquare": ["ReduceSumSquare x > q, axes=1", "Sqrt q > n", "Div x n > y"],
    "squares": ["Mul x x > q", "ReduceSum q axis > s", "Sqrt s > n", "Div x n > y"],
    "powers": ["Pow x two > q", "ReduceSum q axis > s", "Pow s half > n", "Div x n > y"],
    "TensorFlow": [
        "Mul x x > q",
        "ReduceSum q axis > s",
        "Max s eps > m",
        "Sqrt m > n",
        "Reciprocal n > r",
        "Mul r x > y",
    ],
    "a negative power": ["ReduceSumSquare x > q, axes=1", "Pow q minus > r", "Mul x r > y"],
    "handed on": ["Identity x > i", "ReduceL2 i > n, axes=1", "Div x n > d", "Flatten d > y"],
}
OTHERS = {
    "softmax": ["Softmax x > y, axis=1"],
    "softmax written out": ["Exp x > e", "ReduceSum e axis > s", "Div e s > y"],
    "sum to one": ["ReduceSum x axis > s", "Div x s > y"],
    "L1": ["LpNormalization x > y, axis=1, p=1"],
    "RMS": ["Mul x x > q", "ReduceMean q > m, axes=1", "Sqrt m > n", "Div x n > y"],
    "over the square": ["ReduceSumSquare x > q, axes=1", "Div x q > y"],
    "of another tensor": ["Neg x > o", "Sigmoid x > g", "ReduceL2 g > n, axes=1", "Div o n > y"],
    "scaled": ["Div x two > y"],
}


@pytest.mark.parametrize("spelling", NORMS)
def test_a_norm_in_every_spelling(spelling: str) -> None:
    made = graph(*NORMS[spelling])
    x = np.random.default_rng(0).normal(size=(3, 6)).astype(np.float32)
    np.testing.assert_allclose(np.linalg.norm(computed(made, x), axis=1), 1, rtol=1e-5)
    assert has_unit_length("y", producers(made))


@pytest.mark.parametrize("other", OTHERS)
def test_what_is_no_norm(other: str) -> None:
    made = graph(*OTHERS[other])
    x = np.random.default_rng(0).normal(size=(3, 6)).astype(np.float32)
    assert not np.allclose(np.linalg.norm(computed(made, x), axis=1), 1, rtol=1e-3)
    assert not has_unit_length("y", producers(made))


def test_probabilities_and_what_they_are_made_of() -> None:
    makers = producers(graph("Neg x > l", "Softmax l > p", "Identity p > y", "Neg x > other"))
    assert ends_in_probabilities("y", makers)
    assert not ends_in_probabilities("l", makers)
    assert feeds_probabilities("l", "y", makers)
    assert not feeds_probabilities("other", "y", makers)
    assert not feeds_probabilities("y", "l", makers)


@pytest.mark.parametrize(
    ("steps", "operator"),
    [
        (["Softmax x > p", "ArgMax p > i", "Cast i > y, to=7"], "ArgMax"),
        (["Softmax x > p", "TopK p axis > y"], "TopK"),
        (["Softmax x > p", "ZipMap p > y"], "ZipMap"),
    ],
)
def test_the_scores_before_a_selection(steps: list[str], operator: str) -> None:
    found = selection("y", producers(graph(*steps)))
    assert found is not None
    assert (found.operator, found.scores, found.labels) == (operator, "p", None)


def test_no_selection() -> None:
    assert selection("y", producers(graph("Softmax x > y"))) is None
    assert selection("x", {}) is None


@pytest.mark.parametrize(
    ("steps", "line"),
    [
        (["Squeeze x axis > s", "Transpose s > t", "MatMul t w > m", "Softmax m > y"], True),
        (["Squeeze x axis > s", "Identity s > i", "Transpose i > t", "Mul t half > y"], True),
        (["LSTM x w r > l", "Squeeze l axis > s", "MatMul s w > y"], True),
        (["Transpose x > t", "Reshape t axis > r", "Softmax r > y"], False),
        (["Squeeze x axis > s", "Transpose s > t", "Concat t t > c, axis=1", "Neg c > y"], False),
        (["MatMul x w > y"], False),
    ],
)
def test_a_line_of_text_is_one_row_turned_round(steps: list[str], line: bool) -> None:
    assert reads_a_line("y", producers(graph(*steps))) is line

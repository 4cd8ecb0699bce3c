"""Models that give NaN: for noise, so that nothing tells their kind, or for one picture alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper

import ibisa_onnx as ibisa
from ibisa_onnx.targets.unread import UnreadKind, find


@pytest.mark.cpu_provider("kernels may drop NaN")
def test_a_model_that_gives_nan_for_noise_is_not_known_and_says_why(with_nan: Any, squares: Any):
    explainer = squares.opened(with_nan(squares.depth("y"), "y", always=True))
    assert isinstance(explainer.kind, UnreadKind)
    assert explainer.kind.name == "unknown"
    assert "y is NaN when the model is run on noise" in explainer.kind.reason
    for ask in (explainer.explain, explainer.answers):
        with pytest.raises(
            ibisa.OutputError, match="y is NaN when the model is run on noise"
        ) as caught:
            ask(squares.picture(9, 9))
        assert "\n" not in str(caught.value)
    assert find(squares.facts(squares.regression((1, 0)))) is None


@pytest.mark.cpu_provider("kernels may drop NaN")
def test_who_says_what_it_is_is_believed(segmented: Any, with_nan: Any):
    data = with_nan(segmented.model(), "scores", always=True)
    told = segmented.opened(data, kind="segmenter")
    assert told.kind.name == "segmenter"
    with pytest.raises(ibisa.OutputError, match="NaN values for this image"):
        told.explain(segmented.picture())


def test_nan_beside_class_scores_is_left_alone(squares: Any, with_nan: Any):
    nodes = [
        helper.make_node("Conv", ["image", "kernel"], ["features"], strides=[4, 4]),
        helper.make_node("GlobalAveragePool", ["features"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["logits"]),
    ]
    shapes = {"logits": ["n", 4], "features": ["n", 4, 8, 8]}
    kernel = np.ones((4, 3, 4, 4), np.float32) * np.arange(4).reshape(4, 1, 1, 1)
    data = squares.model(nodes, shapes, {"kernel": kernel.astype(np.float32)})
    explainer = squares.opened(with_nan(data, "features", always=True))
    assert explainer.kind.name == "classifier"
    assert explainer.answers(squares.picture(9, 9))


@pytest.mark.cpu_provider("kernels may drop NaN")
def test_class_scores_that_are_nan_are_those_of_a_classifier(squares: Any, with_nan: Any):
    """As of a model whose shapes are open, which is run on noise all the same."""
    data = with_nan(squares.head("Identity", {"logits": 4}), "logits", always=True)
    explainer = squares.opened(data)
    explainer.kind.outputs()
    assert explainer.kind.name == "classifier"
    with pytest.raises(ibisa.OutputError, match="logits has NaN or infinite values"):
        explainer.explain(squares.picture(9, 9))


@pytest.mark.parametrize("kind", ["segmenter", "regression", "depth"])
def test_what_is_nan_for_one_picture_is_said_and_not_that_there_is_nothing(
    kind: str, segmented: Any, squares: Any, with_nan: Any
):
    data, output, opened = {
        "segmenter": (segmented.model(labels=segmented.NAMES), "scores", segmented.opened),
        "regression": (squares.regression((1, 0)), "age", squares.opened),
        "depth": (squares.depth(), "depth", squares.opened),
    }[kind]
    explainer = opened(with_nan(data, output))
    assert explainer.kind.name == kind
    assert explainer.answers(squares.picture(200, 90))
    black = np.zeros((32, 32, 3), np.uint8)
    with pytest.raises(ibisa.OutputError, match=f"output {output} has NaN.* values for this image"):
        explainer.answers(black)
    with pytest.raises(ibisa.OutputError, match=r"NaN|nan"):
        explainer.explain(black)

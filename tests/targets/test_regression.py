"""Regressions: how they are told, what their words mean, and what they say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import ibisa_onnx as ibisa
from ibisa_onnx.targets import depth
from ibisa_onnx.targets.regression import ValueKind, find, find_told
from ibisa_onnx.targets.value import ValueTarget
from ibisa_onnx.targets.window import spans_of


def test_one_number_of_several_is_explained_by_its_index_or_its_label(squares: Any):
    metadata = {"task": "regression", "names": "{0: 'yaw', 1: 'pitch'}"}
    explainer = squares.opened(squares.regression((40, 0), (0, 40), name="angles", **metadata))
    assert explainer.kind.name == "regression"
    for target in ("pitch", "1", ValueTarget("raise", index=1), ValueTarget(index=(1,))):
        found = explainer.explain(squares.picture(200, 200), target)
        assert squares.share(found, 1) > 0.8
    assert explainer.explain(squares.picture(9, 9), "pitch").target.caption == "pitch (keep)"
    assert explainer.explain(squares.picture(9, 9), "1").target.caption == "angles[1] (keep)"
    answers = explainer.answers(squares.picture(255, 0))
    assert [(each.caption, round(each.score, 3)) for each in answers] == [
        ("yaw", 60),
        ("pitch", 20),
    ]


def test_a_regression_is_told_by_the_name_of_a_single_number_or_by_its_metadata(squares: Any):
    kind = find(squares.facts(squares.regression((1, 0))))
    assert kind is not None
    assert (kind.outputs(), kind.reason) == (
        ("age",),
        "age is a single value, by its name",
    )
    both = find(squares.facts(squares.head("Identity", {"yaw": 1, "pitch": 1})))
    assert both is not None
    assert both.outputs() == ("yaw", "pitch")
    said = find(squares.facts(squares.regression((1, 0), (0, 1), name="y", task="regression")))
    assert said is not None
    assert said.reason == "its task, according to the metadata, is regression"


@pytest.mark.parametrize(
    "model",
    [
        lambda squares: squares.regression((1, 0), name="y"),
        lambda squares: squares.regression((1, 0), (0, 1), (1, 1), name="logits"),
        lambda squares: squares.head("Sigmoid", {"quality": 1}),
        lambda squares: squares.head("Softmax", {"age": 1, "gender": 2}),
        lambda squares: squares.head("Identity", {"age": 1, "logits": 4}),
    ],
    ids=["a number", "logits", "a sigmoid", "classes besides", "logits besides"],
)
def test_what_may_be_a_classifier_is_none(squares: Any, model: Any):
    data = model(squares)
    assert find(squares.facts(data)) is None
    assert depth.find(squares.facts(data)) is None
    assert squares.opened(data).kind.name == "classifier"
    assert isinstance(find_told(squares.facts(data)), ValueKind)


def test_words_mean_a_direction_an_output_a_label_or_an_index():
    kind = ValueKind(("yaw", "pitch"), "")
    assert kind.target(None) == ValueTarget("keep", "yaw")
    assert kind.target("raise") == ValueTarget("raise", "yaw")
    assert kind.target("pitch") == ValueTarget("keep", "pitch")
    assert kind.target(0) == ValueTarget("keep", "yaw", index="0")
    with pytest.raises(ibisa.TargetError) as caught:
        kind.target("cat")
    assert str(caught.value) == (
        "target 'cat' is not a value of this model; choose from: raise, lower, keep, yaw, "
        "pitch, an index such as 0"
    )


def test_of_many_numbers_the_least_the_median_and_the_greatest_are_told():
    kind = ValueKind(("y",), "")
    found = kind.answers({"y": np.arange(41.0)[None]}, None)  # type: ignore[arg-type]
    assert [(each.caption, each.score) for each in found] == [
        ("least y", 0),
        ("median y", 20),
        ("greatest y", 40),
    ]


def test_numbers_of_several_axes_are_called_as_an_index_chooses_them():
    kind = ValueKind(("y",), "")
    raw = {"y": np.arange(4.0).reshape(1, 2, 2)}
    found = kind.answers(raw, None)  # type: ignore[arg-type]
    assert [each.caption for each in found] == ["y[0,0]", "y[0,1]", "y[1,0]", "y[1,1]"]
    assert spans_of("1,0", (2, 2), "y") == ((1, 2), (0, 1))
    assert found[2].score == 2

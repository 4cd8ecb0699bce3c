"""A function's boxes: which of its outputs hold what, by the shapes and names that it declares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

import ibisa_onnx as ibisa
from ibisa_onnx.models.headed import HeadedModel
from ibisa_onnx.targets import detection
from ibisa_onnx.targets.decoders import declared
from ibisa_onnx.targets.decoders.base import BOXES, SCORES
from ibisa_onnx.targets.facts import ModelFacts

SIDE = 64


def facts_of(outputs: Mapping[str, Any], labels: list[str] | None = None) -> ModelFacts:
    spec = ibisa.InputSpec((None, 3, SIDE, SIDE), outputs=outputs)
    return ModelFacts(ibisa.FunctionModel(lambda images: None, spec), labels=labels)


FOUND: dict[str, tuple[dict[str, Any], tuple[str, ...], int]] = {
    "scores of classes": (
        {"a": (None, None, 80), "b": (None, None, 4)},
        ("b", "a"),
        80,
    ),
    "numbered": (
        {"labels": (None, None), "boxes": (None, None, 4), "scores": (None, None)},
        ("boxes", "scores", "labels"),
        91,
    ),
    "other words": (
        {"class_ids": (None, None), "confidence": (None, None), "xyxy": (None, None, 4)},
        ("xyxy", "confidence", "class_ids"),
        91,
    ),
    "scores with the word class": (
        {"boxes": (None, None, 4), "class_conf": (None, None), "class_ids": (None, None)},
        ("boxes", "class_conf", "class_ids"),
        91,
    ),
    "scores of one class": (
        {"boxes": (None, None, 4), "class_scores": (None, None)},
        ("boxes", "class_scores"),
        1,
    ),
    "more beside": (
        {
            "landmarks": (None, None, 10),
            "masks": (None, None, 28, 28),
            "boxes": (None, None, 4),
            "scores": (None, None),
            "count": (None, 1),
            "features": (None, 256),
        },
        ("boxes", "scores"),
        1,
    ),
    "of two tables the one called so": (
        {"offsets": (None, None, 4), "boxes": (None, None, 4), "probs": (None, None, 3)},
        ("boxes", "probs"),
        3,
    ),
    "as many rows as there may be": (
        {"boxes": (None, 100, 4), "scores": (None, 100), "other": (None, 9)},
        ("boxes", "scores"),
        1,
    ),
    "a table": ({"detections": (None, None, 6)}, ("detections",), 91),
}


@pytest.mark.parametrize("case", FOUND)
def test_outputs_are_told_by_shapes_and_names(case: str):
    outputs, sources, classes = FOUND[case]
    found = declared.find(facts_of(outputs))
    assert found is not None
    assert (found.sources, found.classes, found.dense) == (sources, classes, False)


def test_labels_say_how_many_classes_there_are():
    outputs = FOUND["numbered"][0]
    found = declared.find(facts_of(outputs, [str(each) for each in range(365)]))
    assert found is not None
    assert found.classes == 365


@pytest.mark.parametrize(
    "outputs",
    [
        {"boxes": (None, None, 4)},
        {"boxes": (None, None, 4), "a": (None, None), "b": (None, None)},
        {"boxes": (None, 100, 4), "scores": (None, 90)},
        {"a": (None, None, 6), "b": (None, None, 5)},
        {"scores": (None, 1000)},
        {"mask": (None, 21, 64, 64)},
    ],
)
def test_what_says_less_is_none(outputs: dict[str, Any]):
    assert declared.find(facts_of(outputs)) is None


def raw_boxes(images: np.ndarray) -> dict[str, np.ndarray]:
    """As an SSD gives them: shares of 1600 places, and two classes of which one is nothing."""
    rows, columns = np.mgrid[:40, :40]
    corners = np.stack([columns, rows, columns + 8, rows + 8], -1).reshape(1, -1, 4) / 48
    scores = np.zeros((len(images), 1600), np.float32) + 0.01
    scores[:, 10 * 40 + 20] = images[:, 0, 14:24, 27:37].mean((1, 2))
    return {
        "boxes": np.repeat(corners, len(images), axis=0),
        "scores": np.stack([1 - scores, scores], 2),
    }


def test_a_raw_table_is_told_by_the_first_picture_even_where_its_kind_was_said():
    outputs = {"boxes": (None, 1600, 4), "scores": (None, 1600, 2)}
    spec = ibisa.InputSpec((None, 3, SIDE, SIDE), outputs=outputs)
    explainer = ibisa.Explainer(raw_boxes, spec, kind="detector", preprocessing="unit", budget=100)
    picture = np.zeros((SIDE, SIDE, 3), np.uint8)
    picture[14:24, 27:37] = 240
    found = explainer.explain(picture)
    expected = np.array([20, 10, 28, 18]) * SIDE / 48
    assert found.target.box == pytest.approx(expected, abs=0.1)
    assert found.target.probability == pytest.approx(240 / 255, abs=1e-3)
    assert "SSD" in explainer.kind.reason
    row, column = np.unravel_index(found.map.argmax(), found.map.shape)
    assert 14 <= row < 24
    assert 27 <= column < 37


def test_rows_that_come_and_go_are_no_anchors_however_many_the_first_picture_has():
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, SIDE / 2, (1, 1200, 2))
    boxes = np.concatenate([corners, corners + SIDE / 2], 2)
    for name, places, scores in (
        ("scores", boxes, np.full((1, 1200, 3), 0.3)),
        ("logits", rng.random((1, 20, 4)), np.full((1, 20, 3), 3.0)),  # as DETR's are
    ):
        facts = facts_of({"boxes": (None, None, 4), name: (None, None, 3)})
        assert facts.learn({"boxes": places, name: scores})
        found = detection.find(facts)
        assert found is not None
        assert found.family == "rows of a function"


def test_a_picture_without_an_object_tells_nothing_yet():
    """All rows are zeros then, which could be shares."""
    outputs = {"boxes": (None, 100, 4), "scores": (None, 100, 2)}

    def rows(images: np.ndarray) -> dict[str, np.ndarray]:
        boxes, scores = np.zeros((len(images), 100, 4)), np.zeros((len(images), 100, 2))
        for n, image in enumerate(images):
            if image[0, 8:24, 8:24].mean() > 0.2:
                boxes[n, 0], scores[n, 0, 1] = (8, 8, 24, 24), image[0, 8:24, 8:24].mean()
        return {"boxes": boxes, "scores": scores}

    spec = ibisa.InputSpec((None, 3, SIDE, SIDE), outputs=outputs)
    explainer = ibisa.Explainer(rows, spec, preprocessing="unit", overrides={"resize": "stretch"})
    empty, full = np.zeros((2, SIDE, SIDE, 3), np.uint8)
    full[8:24, 8:24] = 200
    assert explainer.answers(empty) == []
    assert explainer.answers(full)[0].box == pytest.approx((8, 8, 24, 24))


@pytest.mark.parametrize(
    "outputs",
    [
        {"boxes": (None, None, 4), "scores": (None, None, 7)},
        {"boxes": (None, None, 4), "scores": (None, None, None)},
        {"boxes": (None, None, 4), "scores": (None, None), "labels": (None, None)},
        {"rows": (None, None, 6)},
    ],
    ids=str,
)
@pytest.mark.parametrize("listed", [False, True])
def test_the_first_picture_may_have_no_row(outputs: dict[str, Any], *, listed: bool):
    several = len(outputs.get("scores", ())) == 3
    row = {
        "boxes": [8, 8, 24, 24],
        "scores": [0, 0.9, *[0] * 5] if several else 0.9,
        "labels": 0,
        "rows": [8, 8, 24, 24, 0.9, 0],
    }

    def rows(images: np.ndarray) -> dict[str, Any]:
        count = int(images[0].max() > 0.5)
        found = {name: np.array([row[name]] * count, np.float64) for name in outputs}
        if not listed:  # as many columns as ever
            found = {n: each.reshape(count, *np.shape(row[n])) for n, each in found.items()}
        return found

    spec = ibisa.InputSpec((1, 3, SIDE, SIDE), outputs=outputs)
    explainer = ibisa.Explainer(rows, spec, preprocessing="unit", overrides={"resize": "stretch"})
    empty, full = np.zeros((2, SIDE, SIDE, 3), np.uint8)
    full[8:24, 8:24] = 200
    assert explainer.answers(empty) == []
    assert explainer.answers(full)[0].box == pytest.approx((8, 8, 24, 24))
    kind = explainer.kind
    assert kind.name == "detector"
    assert explainer.answers(empty) == []
    explainer.answers(full)
    assert explainer.kind is kind  # nothing new was learnt, also where every class is 0


def test_its_nodes_make_boxes_and_scores():
    spec = ibisa.InputSpec((None, 3, SIDE, SIDE), outputs={"rows": (None, None, 6)})
    model = ibisa.FunctionModel(lambda images: [[[1, 2, 3, 4, 0.5, 2], [0] * 6]], spec)
    found = declared.find(ModelFacts(model))
    assert found is not None
    headed = HeadedModel(model, found.outputs, found.to_onnx)
    raw = headed.run(np.zeros((1, 3, SIDE, SIDE), np.float32))
    np.testing.assert_array_equal(raw[BOXES], [[[1, 2, 3, 4], [0] * 4]])
    assert raw[SCORES].shape == (1, 2, 91)
    assert raw[SCORES][0, 0].argmax() == 2
    assert raw[SCORES].sum() == 0.5

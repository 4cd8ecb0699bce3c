"""Boxes beside scores: corners or centres, pixels or shares, with a background or without."""

from __future__ import annotations

import numpy as np
import pytest

import ibisa_onnx as ibisa

FAMILY = "boxes and scores"


def outputs(found, boxes, scores, columns, name="boxes"):
    return {
        name: (found.turned(found.fixed(boxes)), ["n", 84, 4]),
        "scores": (scores, ["n", *columns]),
    }


@pytest.mark.parametrize("share", [1.0, 1 / 64])
@pytest.mark.parametrize("centres", [False, True])
def test_boxes(planted, check, share, centres):
    found = planted()
    boxes = np.concatenate([found.centres, found.sides], 1) if centres else found.corners
    scores = found.turned(found.scores)
    check(found.model(outputs(found, boxes * share, scores, (84, 3))), FAMILY)


def test_scores_may_have_classes_first(planted, check):
    found = planted()
    check(found.model(outputs(found, found.corners, found.scores, (3, 84))), FAMILY)


def test_scores_that_sum_to_one_have_a_background(planted, check):
    found = planted()
    total = found.op("ReduceSum", found.scores, found.const([1], np.int64), keepdims=1)
    rest = found.op("Relu", found.op("Sub", found.const(1.0), total))
    whole = found.op("Concat", rest, found.scores, axis=1)
    total = found.op("ReduceSum", whole, found.const([1], np.int64), keepdims=1)
    scores = found.turned(found.op("Div", whole, total))
    explainer = check(found.model(outputs(found, found.corners, scores, (84, 4))), FAMILY)
    assert explainer.kind.detector.classes == 3


def test_tensorflow_has_y_first(planted, check):
    found = planted()
    boxes = found.corners[:, [1, 0, 3, 2]] / 64
    named = outputs(found, boxes, found.turned(found.scores), (84, 3), "raw_detection_boxes")
    check(found.model(named), FAMILY)


def test_boxes_without_area_are_no_detections(planted, picture):
    found = planted()
    flat = found.corners.copy()
    flat[:, 2] = flat[:, 0]
    data = found.model(outputs(found, flat, found.turned(found.scores), (84, 3)))
    explainer = ibisa.Explainer(data, preprocessing="unit", overrides={"resize": "stretch"})
    assert explainer.answers(picture) == []
    with pytest.raises(ibisa.TargetError, match="nothing was detected"):
        explainer.explain(picture)

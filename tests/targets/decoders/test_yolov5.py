"""YOLOv5's table: three anchors a place, and an objectness."""

from __future__ import annotations

import numpy as np
import pytest

import ibisa_onnx as ibisa


def table(found, objectness=1.0, share=1.0):
    boxes = found.fixed(np.concatenate([found.centres, found.sides], 1) * share)
    sure = found.op("Add", found.zero, found.const(objectness))
    return found.turned(found.op("Concat", boxes, sure, found.scores, axis=1))


@pytest.mark.parametrize("share", [1.0, 1 / 64])
def test_boxes_in_pixels_and_as_shares(planted, check, share):
    found = planted(anchors=3)
    check(found.model({"output": (table(found, share=share), ["n", 252, 8])}), "YOLOv5/v7")


def test_a_score_is_its_own_times_the_objectness(planted, picture):
    found = planted(anchors=3)
    data = found.model({"output": (table(found, objectness=0.5), ["n", 252, 8])})
    explainer = ibisa.Explainer(data, preprocessing="unit", overrides={"resize": "stretch"})
    scores = [answer.score for answer in explainer.answers(picture)]
    assert scores == pytest.approx([0.5 * 230 / 255, 0.5 * 180 / 255], abs=1e-3)

"""YOLOv5's table: three anchors a place, and an objectness."""

from __future__ import annotations

import pytest
from field_set.formats import with_objectness

import ibisa_onnx as ibisa


@pytest.mark.parametrize("share", [1.0, 1 / 64])
def test_boxes_in_pixels_and_as_shares(check, share):
    check(with_objectness(share=share), "YOLOv5/v7")


def test_a_score_is_its_own_times_the_objectness(picture):
    data = with_objectness(objectness=0.5)
    explainer = ibisa.Explainer(data, preprocessing="unit", overrides={"resize": "stretch"})
    scores = [answer.score for answer in explainer.answers(picture)]
    assert scores == pytest.approx([0.5 * 230 / 255, 0.5 * 180 / 255], abs=1e-3)

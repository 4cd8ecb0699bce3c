"""D-RISE: its score by hand, and its map on a planted detector."""

from __future__ import annotations

import numpy as np
import pytest

import ibisa_onnx as ibisa
from ibisa_onnx.demo import model_path, scene_path
from ibisa_onnx.methods.drise import DRise
from ibisa_onnx.targets.boxes import SimilarityToBox


def test_the_score_is_overlap_times_cosine_times_how_sure_it_is():
    """Equation 3, by hand: the second box overlaps by 1/3, and is half of another class."""
    objective = SimilarityToBox("b", "s", (0, 0, 10, 10), (0.8, 0.0))
    boxes = np.array([[[5, 0, 15, 10], [0, 0, 10, 10]]], np.float32)
    scores = np.array([[[0.9, 0.0], [0.3, 0.4]]], np.float32)
    whole, half = 0.9 * (50 / 150), 0.4 * 0.3 / 0.5
    assert objective.probability({"b": boxes, "s": scores}) == pytest.approx(max(whole, half))
    assert objective.probability({"b": boxes[:, 1:], "s": scores[:, 1:]}) == pytest.approx(half)


@pytest.mark.real
def test_a_face_is_found_by_a_thousand_masks(assets):
    explainer = ibisa.Explainer(
        assets / "models" / "face_rfb320.onnx",
        preprocessing=ibisa.Preprocessing(
            (240, 320), resize="stretch", mean=(127.0,) * 3, std=(128.0,) * 3
        ),
    )
    found = explainer.explain(assets / "detection" / "15.jpg", method=DRise(1000))
    assert found.passes.forward == 1001
    left, top, right, bottom = found.target.box
    y, x = np.unravel_index(found.map.argmax(), found.map.shape)
    assert left <= x < right
    assert top <= y < bottom


def test_it_explains_boxes_alone():
    explainer = ibisa.Explainer(model_path(), threads=1)
    with pytest.raises(
        ibisa.TargetError, match="drise explains boxes of detectors, not a class; use rise"
    ):
        explainer.explain(scene_path(), method="drise")

"""YOLOX's table: one anchor a place, an objectness, and boxes decoded or not."""

from __future__ import annotations

import numpy as np
import pytest

import ibisa_onnx as ibisa


@pytest.mark.parametrize("decoded", [False, True])
def test_both_ways_to_write_boxes(planted, check, decoded):
    found = planted()
    boxes = np.concatenate([found.centres, found.sides], 1)
    if not decoded:  # half a place from its corner; a side of one stride
        boxes = np.repeat([[0.5, 0.5, 0.0, 0.0]], 84, axis=0)
    sure = found.op("Add", found.zero, found.const(1.0))
    rows = found.turned(found.op("Concat", found.fixed(boxes), sure, found.scores, axis=1))
    explainer = check(found.model({"output": (rows, ["n", 84, 8])}), "YOLOX")
    assert ("not decoded" in explainer.kind.reason) != decoded


def test_what_is_usual_for_it_is_taken_where_nobody_says(planted):
    found = planted()
    sure = found.op("Add", found.zero, found.const(1.0))
    boxes = found.fixed(np.repeat([[0.5, 0.5, 0.0, 0.0]], 84, axis=0))
    rows = found.turned(found.op("Concat", boxes, sure, found.scores, axis=1))
    explainer = ibisa.Explainer(found.model({"output": (rows, ["n", 84, 8])}))
    spec = explainer.preprocessing.spec
    assert (spec.resize, spec.channel_order, spec.scale) == ("letterbox-corner", "BGR", 1.0)
    assert any("default for YOLOX" in warning for warning in explainer.warnings)

"""Selected rows: matched by overlap, whatever their order, with a class of their own."""

from __future__ import annotations

import numpy as np
import pytest
from field_set.formats import selected_rows

import ibisa_onnx as ibisa

BOX, LEVEL = (32, 16, 48, 32), 230 / 255


@pytest.mark.parametrize(
    ("order", "shape"),
    [("bsc", ("n", 80, 6)), ("ncsb", (1, 1, 80, 7)), ("nbcs", (80, 7)), ("bscnn", ("n", 80, 8))],
)
def test_every_order_of_columns(picture, order, shape):
    explainer = ibisa.Explainer(
        selected_rows(order, shape),
        preprocessing="unit",
        overrides={"resize": "stretch"},
        threads=1,
        options=ibisa.Options(baseline="mean"),
    )
    assert "selected rows" in explainer.kind.reason
    (answer,) = explainer.answers(picture)
    assert (answer.label, answer.box) == ("red", pytest.approx(BOX, abs=1e-2))
    assert answer.score == pytest.approx(LEVEL, abs=1e-3)
    explanation = explainer.explain(picture, "red")
    left, top, right, bottom = BOX
    assert explanation.map[top:bottom, left:right].sum() > 0.6 * explanation.map.sum()
    assert explanation.certificate.gradient == "exact"


def test_rows_of_boxes_scores_and_labels_apart(planted, picture):
    """As torchvision writes them: no batch axis, and as many rows as there are objects."""
    found = planted()
    corners = found.turned(found.fixed(found.corners))
    scores = found.op("ReduceMax", found.scores, axes=[1], keepdims=0)  # [1, A]
    sure = found.op("Greater", scores, found.const(0.25))
    where = found.op("NonZero", sure)
    row = found.op("Gather", where, found.const(1, np.int64), axis=0)
    labels = found.op("ArgMax", found.scores, axis=1, keepdims=0)

    def chosen(name, shape):
        flat = found.op("Reshape", name, found.const(shape, np.int64))
        return found.op("Gather", flat, row, axis=0)

    outputs = {
        "boxes": (chosen(corners, [-1, 4]), ["rows", 4]),
        "labels": (chosen(labels, [-1]), ["rows"]),
        "scores": (chosen(scores, [-1]), ["rows"]),
    }
    data = found.model(outputs, {"names": "{0: 'red', 1: 'green', 2: 'blue'}"}, batch=1)
    explainer = ibisa.Explainer(
        data,
        preprocessing="unit",
        overrides={"resize": "stretch"},
        kind="detector",
        threads=1,
        gradient="forward-only",
        budget=100,
        options=ibisa.Options(baseline="mean"),
    )
    first, second = explainer.answers(picture)
    assert (first.label, second.label) == ("red", "green")
    assert first.box == pytest.approx(BOX, abs=1e-2)
    explanation = explainer.explain(picture, "red")  # whose calls have none, one or two rows each
    row, column = np.unravel_index(explanation.map.argmax(), explanation.map.shape)
    assert BOX[1] <= row < BOX[3]
    assert BOX[0] <= column < BOX[2]

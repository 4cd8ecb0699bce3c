"""Ultralytics' table, with and without what comes after the scores, and before its selection."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import ibisa_onnx as ibisa

NAMES = "{0: 'red', 1: 'green', 2: 'blue'}"
OWN = {"author": "Ultralytics", "task": "detect", "names": NAMES}


def table(found, *more):
    """[n, 4 + 3 + more, A]."""
    boxes = found.fixed(np.concatenate([found.centres, found.sides], 1))
    return found.op("Concat", boxes, found.scores, *more, axis=1)


@pytest.mark.parametrize("metadata", [{}, OWN])
def test_the_plain_table(planted, check, metadata):
    found = planted()
    data = found.model({"output0": (table(found), ["n", 7, 84])}, metadata)
    explainer = check(data, "YOLO (Ultralytics)", labels=None if metadata else ("r", "g", "b"))
    assert explainer.kind.reason.endswith("metadata name Ultralytics") == bool(metadata)


def test_open_sides_are_told_by_a_run(planted, check):
    found = planted()
    check(found.model({"output0": (table(found), ["n", "c", "a"])}), "YOLO (Ultralytics)")


def test_scores_that_are_nan_are_not_taken_for_nothing(planted, check, picture, with_nan):
    found = planted()
    data = found.model({"output0": (table(found), ["n", 7, 84])}, OWN)
    explainer = check(with_nan(data, "output0"), "YOLO (Ultralytics)", labels=None)
    for ask in (explainer.answers, explainer.explain):
        with pytest.raises(ibisa.OutputError, match="output output0 has NaN values"):
            ask(np.zeros_like(picture))


def test_coefficients_of_masks_are_no_classes(planted, check):
    found = planted()
    more = found.fixed(np.linspace(-1, 1, 84 * 4).reshape(84, 4))
    protos = found.op("AveragePool", "image", kernel_shape=[4, 4], strides=[4, 4])
    outputs = {
        "output0": (table(found, more), ["n", 11, 84]),
        "output1": (protos, ["n", 3, 16, 16]),
    }
    explainer = check(found.model(outputs), "YOLO (Ultralytics)")
    assert explainer.kind.detector.classes == 3


def test_a_turned_box_is_read_as_the_upright_one_around_it(planted, check):
    found = planted()
    quarter = found.fixed(np.full((84, 1), np.pi / 2))
    metadata = {**OWN, "task": "obb"}
    check(found.model({"output0": (table(found, quarter), ["n", 8, 84])}, metadata), "YOLO")


def test_before_nms_the_table_is_found(planted, check):
    """With NMS in the graph the selected rows have no gradient; the table before them has."""
    found = planted()
    whole = found.turned(table(found))  # [1, A, 7]
    centres, sides, scores = (
        found.op("Gather", whole, found.const(list(columns), np.int64), axis=2)
        for columns in (range(2), range(2, 4), range(4, 7))
    )
    half = found.op("Mul", sides, found.const(0.5))
    corners = found.op(
        "Concat", found.op("Sub", centres, half), found.op("Add", centres, half), axis=2
    )
    kept = found.op(
        "NonMaxSuppression",
        corners,
        found.turned(scores),
        found.const([10], np.int64),
        found.const([0.45]),
        found.const([0.25]),
    )
    row = found.op("Gather", kept, found.const(2, np.int64), axis=1)
    boxes = found.op("Gather", corners, row, axis=1)
    best = found.op("ReduceMax", found.op("Gather", scores, row, axis=1), axes=[2], keepdims=1)
    label = found.op("ArgMax", found.op("Gather", scores, row, axis=1), axis=2, keepdims=1)
    rows = found.op("Concat", boxes, best, found.op("Cast", label, to=1), axis=2)
    data = found.model({"output0": (rows, [1, "rows", 6])}, OWN, batch=1)
    explainer = check(data, "YOLO (Ultralytics)", labels=None)
    (source,) = explainer.kind.detector.sources
    assert source not in [each.name for each in onnx.load_from_string(data).graph.output]


@pytest.mark.parametrize("metadata", [{**OWN, "end2end": "True"}, {}])
def test_heads_without_nms_give_corners(planted, check, metadata):
    found = planted()
    rows = found.op("Concat", found.fixed(found.corners), found.scores, axis=1)
    data = found.model({"output0": (rows, ["n", 7, 84])}, metadata)
    check(data, "YOLO (Ultralytics)", labels=("red", "green", "blue"))

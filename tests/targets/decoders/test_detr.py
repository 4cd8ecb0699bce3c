"""Logits beside boxes: a softmax with "no object", or a sigmoid for each class."""

from __future__ import annotations

import numpy as np
import pytest


def log(found, values):
    return found.op("Log", found.op("Max", values, found.const(1e-6)))


def boxes(found):
    shares = np.concatenate([found.centres, found.sides], 1) / 64
    return found.turned(found.fixed(shares)), ["n", 84, 4]


def test_a_softmax_whose_last_class_is_no_object(planted, check):
    found = planted()
    total = found.op("ReduceSum", found.scores, found.const([1], np.int64), keepdims=1)
    rest = found.op("Sub", found.const(1.0), total)
    whole = found.op("Concat", found.scores, rest, axis=1)
    logits = found.turned(log(found, whole))
    outputs = {"logits": (logits, ["n", 84, 4]), "pred_boxes": boxes(found)}
    explainer = check(found.model(outputs), "DETR: ")
    assert explainer.kind.detector.classes == 3


@pytest.mark.parametrize("order", [1, -1])
def test_a_sigmoid_each(planted, check, order):
    found = planted()
    against = found.op("Sub", found.const(1.0), found.scores)
    logits = found.turned(found.op("Sub", log(found, found.scores), log(found, against)))
    outputs = {"logits": (logits, ["n", 84, 3]), "pred_boxes": boxes(found)}
    metadata = {"names": "{0: 'red', 1: 'green', 2: 'blue'}"}
    data = found.model(dict(list(outputs.items())[::order]), metadata)
    check(data, "RT-DETR", labels=None)

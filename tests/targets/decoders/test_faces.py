"""Face detectors with outputs for each stride: CenterFace, SCRFD and YuNet."""

from __future__ import annotations

import numpy as np
import pytest
from field_set.formats import scrfd, yunet

import ibisa_onnx as ibisa

BOX, LEVEL = (32, 16, 48, 32), 230 / 255


def see(data, family, picture):
    """One face, where the red square is."""
    explainer = ibisa.Explainer(
        data,
        preprocessing="unit",
        overrides={"resize": "stretch"},
        threads=1,
        options=ibisa.Options(baseline="mean"),
    )
    assert family in explainer.kind.reason
    (answer,) = explainer.answers(picture)
    assert (answer.label, answer.box) == ("face", pytest.approx(BOX, abs=1e-2))
    assert answer.score == pytest.approx(LEVEL, abs=1e-3)
    found = explainer.explain(picture)
    left, top, right, bottom = BOX
    assert found.certificate.gradient == "exact"
    assert found.map[top:bottom, left:right].sum() > 0.6 * found.map.sum()


def test_yunet(picture):
    see(yunet(), "YuNet", picture)


@pytest.mark.parametrize("anchors", [1, 2])
def test_scrfd(picture, anchors):
    see(scrfd(anchors), "SCRFD", picture)


def test_centerface(planted, picture):
    """Places of 4 pixels; the middle of the square is at one's middle."""
    found = planted()
    middle, side = (9, 5), 16  # of the red square: x 40 = (9.5 + 0.5) * 4
    means = found.op("AveragePool", "image", kernel_shape=[16, 16], strides=[16, 16])
    flat = found.op("Reshape", means, found.const([0, 3, 16], np.int64))
    score = found.op("Gather", flat, found.const([1 * 4 + 2], np.int64), axis=2)
    score = found.op("Gather", score, found.const([0], np.int64), axis=1)  # [n, 1, 1]
    where = np.zeros((1, 1, 256), np.float32)
    where[0, 0, middle[1] * 16 + middle[0]] = 1
    heat = found.op("Mul", score, found.const(where))
    shape = found.const([0, -1, 16, 16], np.int64)
    zero = found.op("Mul", heat, found.const(0.0))

    def plane(first, second):
        values = np.broadcast_to(np.array([[[first], [second]]], np.float32), (1, 2, 256))
        return found.op("Reshape", found.op("Add", zero, found.const(values)), shape)

    log_side = float(np.log(side / 4))
    outputs = {
        "heat": (found.op("Reshape", heat, shape), ["n", 1, 16, 16]),
        "sides": (plane(log_side, log_side), ["n", 2, 16, 16]),
        "offsets": (plane(0.5, 0.5), ["n", 2, 16, 16]),  # y first: (5 + .5 + .5) * 4 = 24
        "marks": (
            found.op("Reshape", found.op("Concat", *[zero] * 10, axis=1), shape),
            ["n", 10, 16, 16],
        ),
    }
    see(found.model(outputs), "CenterFace", picture)

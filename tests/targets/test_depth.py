"""Maps of depth: at a point, in the middle, and how they are told."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import ibisa_onnx as ibisa
from ibisa_onnx.targets import regression
from ibisa_onnx.targets.arguments import PointTarget
from ibisa_onnx.targets.depth import find
from ibisa_onnx.targets.value import ValueTarget


def test_depth_at_a_point_is_explained_by_what_is_there(squares: Any):
    explainer = squares.opened(squares.depth())
    assert explainer.kind.name == "depth"
    shown = np.full((2 * squares.SIDE, 2 * squares.SIDE, 3), 40, np.uint8)
    shown[8:56, 8:56] = 200
    for target in (ValueTarget(at=(17, 41)), PointTarget((17, 41))):
        found = explainer.explain(shown, target)
        assert found.target.caption == "depth at 17,41 (keep)"
        assert found.target.details["at"] == [17, 41]
        assert found.target.at == (17, 41)
        assert found.target.details["value"] == pytest.approx(200 / 255, rel=1e-4)
        assert found.map[36:52, 12:28].sum() > 0.9 * found.map.sum()
    least, median, greatest = explainer.answers(shown)
    assert least.score == pytest.approx(40 / 255, rel=1e-2)
    assert median.caption == "median depth"
    assert greatest.score == pytest.approx(200 / 255, rel=1e-2)
    x, y = greatest.details["at"]
    assert tuple(shown[int(y), int(x)]) == (200, 200, 200)


def test_margins_have_no_depth(squares: Any):
    shown = np.full((squares.SIDE // 2, squares.SIDE, 3), 130, np.uint8)
    shown[4:12, 8:16] = 200
    spec = ibisa.Preprocessing((squares.SIDE, squares.SIDE), "letterbox", scale=1 / 255)
    least, _, greatest = squares.opened(squares.depth(), preprocessing=spec).answers(shown)
    assert least.score == pytest.approx(130 / 255, rel=1e-3)  # the margins have 114
    assert greatest.score == pytest.approx(200 / 255, rel=1e-3)
    assert 0 <= least.details["at"][1] <= 16
    assert (
        tuple(shown[int(greatest.details["at"][1]), int(greatest.details["at"][0])]) == (200,) * 3
    )


def test_a_picture_thinner_than_a_cell_has_a_depth(squares: Any):
    shown = np.full((2, 20 * squares.SIDE, 3), 130, np.uint8)
    spec = ibisa.Preprocessing((squares.SIDE, squares.SIDE), "letterbox", scale=1 / 255)
    for found in squares.opened(squares.depth(), preprocessing=spec).answers(shown):
        x, y = found.details["at"]
        assert 0 <= x <= 20 * squares.SIDE
        assert 0 <= y <= 2


def test_the_middle_of_a_map_is_what_is_explained_where_nothing_is_said(squares: Any):
    found = squares.opened(squares.depth()).explain(squares.picture(9, 9), "raise")
    assert found.target.caption == "depth at 16,16 (raise)"
    with pytest.raises(ibisa.TargetError, match="target 'cat' is not supported by a depth model"):
        squares.opened(squares.depth()).explain(squares.picture(9, 9), "cat")


def test_a_map_of_depth_is_told_by_its_name_or_its_metadata(squares: Any):
    for name in ("predicted_depth", "disparity"):
        kind = find(squares.facts(squares.depth(name)))
        assert kind is not None
        assert kind.outputs() == (name,)
    assert find(squares.facts(squares.depth("scores"))) is None
    assert regression.find(squares.facts(squares.depth())) is None

"""Which numbers of an output are meant: indices, and cells of maps under points of a picture."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import ibisa_onnx as ibisa
from ibisa_onnx.errors import AbsentTargetError
from ibisa_onnx.preprocessing.geometry import Geometry
from ibisa_onnx.targets.window import cell_at, cells_seen, point_of, spans_of


@pytest.mark.parametrize(
    ("index", "spans"),
    [
        (None, ((0, 3), (0, 4), (0, 5))),
        ("1", ((1, 2), (0, 4), (0, 5))),
        ("-1,:,2:4", ((2, 3), (0, 4), (2, 4))),
        (" 0 , 1: , :2 ", ((0, 1), (1, 4), (0, 2))),
        (2, ((2, 3), (0, 4), (0, 5))),
        ((np.int64(0), slice(None), slice(1, -1)), ((0, 1), (0, 4), (1, 4))),
    ],
)
def test_an_index_is_read_strictly_as_numbers_and_ranges(index: Any, spans: Any):
    assert spans_of(index, (3, 4, 5), "y") == spans


@pytest.mark.parametrize(
    ("index", "said"),
    [
        ("x", "'x' is not an integer or a range such as 2:5; output y is [N, 3, 4]"),
        ("", "'' is not an integer or a range"),
        ("0,1::2", "'1::2' is not an integer or a range"),
        ("1.5", "'1.5' is not an integer or a range"),
        (True, "True is not an integer or a range"),
        ((slice(0, 2, 2),), "slice(0, 2, 2) is not an integer or a range"),
        ("0,0,0", "index '0,0,0' has 3 parts, but output y is [N, 3, 4], with 2 after the batch"),
        ("3", "index '3' selects nothing: output y is [N, 3, 4], and its axis 1 runs from 0"),
        ("0,-5", "axis 2 runs from 0 to 3"),
        ("2:1", "selects nothing"),
    ],
)
def test_an_index_that_is_none_is_refused_in_one_line(index: Any, said: str):
    with pytest.raises(ibisa.TargetError) as caught:
        spans_of(index, (3, 4), "y")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


WIDE = Geometry((32, 96), (32, 32), (1.0, 1.0), (0.0, -32.0))
"""A picture whose middle third is seen."""
HALF = Geometry((20, 40), (40, 40), (1.0, 1.0), (10.0, 0.0))
"""A picture in a letterbox."""


@pytest.mark.parametrize(
    ("point", "geometry", "cell"),
    [
        ((32, 0), WIDE, (0, 0)),
        ((63, 31), WIDE, (3, 3)),
        ((0, 0), HALF, (1, 0)),
        ((40, 20), HALF, (2, 3)),  # the picture's own corner
    ],
)
def test_the_cell_of_a_map_over_a_point(point: Any, geometry: Geometry, cell: Any):
    assert cell_at(point, geometry, (4, 4)) == cell
    back = point_of(*cell, geometry, (4, 4))
    assert cell_at(back, geometry, (4, 4)) == cell


def test_a_point_that_is_cropped_away_has_no_cell():
    with pytest.raises(AbsentTargetError, match="the model does not see 3,5"):
        cell_at((3, 5), WIDE, (4, 4))


THIN = Geometry((2, 40), (40, 40), (1.0, 1.0), (19.0, 0.0))
"""A letterbox whose picture lies between the middles of cells of 10 pixels."""


@pytest.mark.parametrize(("geometry", "rows"), [(HALF, {1, 2}), (THIN, {1}), (WIDE, {0, 1, 2, 3})])
def test_the_cells_that_show_the_picture(geometry: Geometry, rows: set[int]):
    seen = cells_seen(geometry, (4, 4))
    assert set(np.flatnonzero(seen.all(1))) == rows
    assert set(np.flatnonzero(seen.any(1))) == rows

"""Texts at boxes: readable on any ground, whole at every edge, and beside each other."""

from __future__ import annotations

import numpy as np
import pytest

from ibisa_onnx.io.overlay import tagged
from ibisa_onnx.io.tags import draw_tags

SIDE = 200


def drawn(ground, *tags, size=0.5):
    picture = np.full((SIDE, SIDE, 3), ground, np.uint8)
    draw_tags(picture, [(text, box) for text, *box in tags], size)
    return picture


def changed(ground, *tags):
    return (drawn(ground, *tags) != ground).any(2)


@pytest.mark.parametrize("ground", [0, 90, 128, 255])
def test_a_number_has_the_same_contrast_on_every_ground(ground):
    """All its light and dark pixels are the tag's own."""
    reference, picture = drawn(100, ("8", 80, 80, 120, 120)), drawn(ground, ("8", 80, 80, 120, 120))
    tag = (reference != 100).any(2)
    rows, columns = (np.flatnonzero(tag.any(axis)) for axis in (1, 0))
    inside = np.ix_(range(rows[0], rows[-1] + 1), range(columns[0], columns[-1] + 1))
    np.testing.assert_array_equal(picture[inside], reference[inside])
    assert int(picture[inside].max()) - int(picture[inside].min()) > 200
    assert 0.05 < (picture[inside] < 80).mean() < 0.6


@pytest.mark.parametrize(
    "box", [(0, 0, 10, 10), (190, 0, 200, 10), (0, 190, 10, 200), (190, 190, 200, 200)]
)
def test_a_number_is_whole_at_every_corner(box):
    middle = changed(100, ("88", 80, 80, 120, 120))
    assert changed(100, ("88", *box)).sum() == middle.sum()


def test_numbers_of_one_place_stand_apart():
    one = changed(100, ("8", 80, 80, 120, 120)).sum()
    many = [("8", 80, 80, 120, 120), ("8", 82, 82, 122, 122), ("8", 81, 79, 121, 119)]
    assert changed(100, *many).sum() == 3 * one


def test_a_name_wider_than_the_picture_is_made_smaller():
    picture = drawn(100, ("a name that is far too long", 0, 50, 200, 150))
    tag = (picture != 100).any(2)
    rows, columns = (np.flatnonzero(tag.any(axis)) for axis in (1, 0))
    for column in (columns[0], columns[-1]):  # its edges are there
        assert len(np.unique(picture[rows[0] : rows[-1] + 1, column])) == 1


def test_a_thumbnail_is_enlarged_until_texts_can_be_read():
    picture = tagged(np.zeros((20, 40, 3), np.uint8), [("1", (2, 2, 20, 18))])
    assert picture.shape == (400, 800, 3)

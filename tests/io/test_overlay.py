"""The overlay: silence stays a picture, need gets colour, and every size can be drawn."""

from __future__ import annotations

import numpy as np
import pytest

from ibisa_onnx.errors import ResultError
from ibisa_onnx.io.colormap import colormap
from ibisa_onnx.io.overlay import MAX_SIDE, MIN_SIDE, ascii_fold, beside, blend, scale_of


def photograph(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def chroma(picture):
    picture = picture.astype(int)
    return picture.max(axis=-1) - picture.min(axis=-1)


def test_silence_is_the_picture_dim_and_nearly_grey():
    image = photograph(40, 50)
    drawn = blend(image, np.zeros((40, 50), np.float32))
    grey = image @ [0.299, 0.587, 0.114]
    assert np.corrcoef(drawn.mean(axis=-1).ravel(), grey.ravel())[0, 1] > 0.95
    assert chroma(drawn).mean() < 0.3 * chroma(image).mean()
    assert 0.5 * image.mean() < drawn.mean() < image.mean()


def test_need_is_coloured_and_still_shows_the_picture():
    image = np.repeat(photograph(40, 50)[..., :1], 3, axis=2)
    map = np.zeros((40, 50), np.float32)
    map[10:30, 20:40] = 0.7
    drawn = blend(image, map)
    inside = drawn[10:30, 20:40].astype(float)
    outside = np.ones((40, 50), bool)
    outside[10:30, 20:40] = False
    assert chroma(drawn)[10:30, 20:40].min() > 20
    assert chroma(drawn)[outside].max() <= 1
    assert np.corrcoef(inside[..., 1].ravel(), image[10:30, 20:40, 1].ravel())[0, 1] > 0.99


def test_more_need_is_lighter_and_nearer_to_the_colormap():
    image = np.full((1, 256, 3), 90, np.uint8)
    drawn = blend(image, np.linspace(0, 1, 256, dtype=np.float32)[None])[0].astype(float)
    distance = np.abs(drawn - colormap()).sum(axis=-1)
    assert distance[-1] < 0.4 * np.abs(90.0 - colormap()[-1]).sum()
    upper = drawn[128:] @ [0.299, 0.587, 0.114]
    assert np.all(np.diff(upper[::16]) > 0)


def test_unit_of_the_map_does_not_matter_and_few_hot_pixels_do_not_darken_the_rest():
    image, map = photograph(100, 100), np.zeros((100, 100), np.float32)
    map[20:60, 20:60] = 1.0
    hot = map.copy()
    hot[0, :20] = 1000.0
    np.testing.assert_array_equal(blend(image, map), blend(image, 64 * map))
    np.testing.assert_array_equal(blend(image, map)[20:60, 20:60], blend(image, hot)[20:60, 20:60])


def test_a_need_smaller_than_the_percentile_is_still_seen():
    image, map = np.full((100, 100, 3), 120, np.uint8), np.zeros((100, 100), np.float32)
    map[50, 50] = 0.3
    assert chroma(blend(image, map))[50, 50] > 20


@pytest.mark.parametrize("value", [0.0, 1.0, -3.0, 1e-30, 3e38])
def test_constant_maps_have_a_scale_and_can_be_drawn(value):
    map = np.full((6, 7), value, np.float32)
    assert scale_of(map) > 0
    assert blend(photograph(6, 7), map).dtype == np.uint8


def test_negative_values_count_as_silence():
    image = photograph(20, 20)
    map = np.zeros((20, 20), np.float32)
    map[:5] = 1.0
    signed = map.copy()
    signed[10:] = -5.0
    np.testing.assert_array_equal(blend(image, map), blend(image, signed))


def test_panels_stand_side_by_side_with_the_picture_on_the_left():
    image = photograph(300, 400)
    drawn = beside(image, np.zeros((300, 400), np.float32))
    assert drawn.shape == (300, 808, 3)
    np.testing.assert_array_equal(drawn[:, :400], image)
    np.testing.assert_array_equal(drawn[:, 408:], blend(image, np.zeros((300, 400), np.float32)))


def test_wide_panels_are_stacked():
    image = photograph(300, 700)
    drawn = beside(image, np.zeros((300, 700), np.float32))
    assert drawn.shape == (608, 700, 3)
    np.testing.assert_array_equal(drawn[:300], image)


def test_caption_adds_a_strip_and_gives_up_the_right_text_first():
    image, map = photograph(300, 400), np.zeros((300, 400), np.float32)
    both = beside(image, map, left="goat 93%", right="20 forward")
    left = beside(image, map, left="goat 93%", right="x" * 300)
    assert both.shape[0] > 300
    assert both.shape[1] == 808
    np.testing.assert_array_equal(left, beside(image, map, left="goat 93%"))
    assert both[300:, :200].min() < 128  # ink on the left
    assert both[300:, -200:].min() < 128  # and on the right
    assert left[300:, -200:].min() > 200
    assert beside(image, map, left="x" * 500).shape[0] == 300


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1), (2, 9000), (33, 47), (2200, 1800)])
def test_every_size_can_be_drawn(size):
    map = np.linspace(0, 1, size[0] * size[1], dtype=np.float32).reshape(size)
    drawn = beside(photograph(*size), map, left="a label", right="20 forward + 10 backward")
    longer = max(drawn.shape[:2])
    assert MIN_SIDE <= longer <= 2 * MAX_SIDE + 100
    assert drawn.dtype == np.uint8


def test_one_pixel_is_enlarged_as_it_is():
    drawn = beside(np.array([[[9, 80, 200]]], np.uint8), np.ones((1, 1), np.float32))
    np.testing.assert_array_equal(drawn[:MIN_SIDE, :MIN_SIDE], np.full((256, 256, 3), [9, 80, 200]))


@pytest.mark.parametrize(
    ("label", "folded"),
    [("goat", "goat"), ("café crème", "cafe creme"), ("子犬", ""), ("Großer Hund", ""), ("", "")],
)
def test_labels_are_folded_to_ascii_or_left_out_never_mutilated(label, folded):
    assert ascii_fold(label) == folded


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_maps_that_are_not_finite_are_refused(bad):
    map = np.zeros((4, 5), np.float32)
    map[1, 1] = bad
    with pytest.raises(ResultError, match="NaN or infinite"):
        blend(photograph(4, 5), map)


def test_map_of_another_picture_is_refused():
    with pytest.raises(ResultError, match=r"\[5, 4\].*\[4, 5\]"):
        beside(photograph(4, 5), np.zeros((5, 4), np.float32))


def test_what_speaks_against_is_blue_and_what_speaks_for_is_drawn_as_without_it():
    image = np.full((40, 60, 3), 90, np.uint8)
    map, against = np.zeros((2, 40, 60), np.float32)
    map[:, :20], against[:, 40:] = 1.0, 0.7
    drawn, plain = blend(image, map, 1.0, against).astype(int), blend(image, map)
    np.testing.assert_array_equal(drawn[:, :40], plain[:, :40])
    red, _, blue = drawn[20, 50]
    assert blue > red + 60


def test_the_larger_of_for_and_against_is_seen_by_as_much_as_it_is_larger():
    image = np.full((10, 30, 3), 90, np.uint8)
    map, against = np.ones((2, 10, 30), np.float32)
    against[:, :10], map[:, 10:20] = 0.4, 0.4
    drawn = blend(image, map, 1.0, against)
    np.testing.assert_allclose(drawn[:, 20:], blend(image, 0 * map)[:, 20:], atol=1)
    assert drawn[5, 5, 0] > drawn[5, 5, 2]
    assert drawn[5, 15, 2] > drawn[5, 15, 0]


def test_a_map_against_of_another_size_is_refused():
    with pytest.raises(ResultError, match=r"\[5, 4\].*\[4, 5\]"):
        blend(photograph(4, 5), np.zeros((4, 5), np.float32), 1.0, np.zeros((5, 4), np.float32))


@pytest.mark.parametrize("ground", [0, 128, 255])
def test_a_point_is_crossed_in_both_panels_on_any_ground(ground):
    image = np.full((300, 400, 3), ground, np.uint8)
    plain = beside(image, np.zeros((300, 400), np.float32))
    drawn = beside(image, np.zeros((300, 400), np.float32), points=[(120, 80)])
    changed = (plain != drawn).any(2)
    for left in (0, drawn.shape[1] - 400):
        rows, columns = np.nonzero(changed[:, left : left + 400])
        assert (rows.mean(), columns.mean()) == pytest.approx((80, 120), abs=1)
        assert max(np.ptp(rows), np.ptp(columns)) < 30


def test_a_point_at_the_corner_is_drawn_as_far_as_it_goes():
    image = np.full((300, 400, 3), 90, np.uint8)
    drawn = beside(image, np.zeros((300, 400), np.float32), points=[(0, 0), (400, 300)])
    assert drawn.shape[0] >= 300

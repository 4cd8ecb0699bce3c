"""How much of a map lies outside a region, for planted maps and images of any size."""

from __future__ import annotations

import numpy as np
import pytest
from monitor.planted import planted, spot

from ibisa_onnx.errors import OptionError
from ibisa_onnx.monitor import Monitor, Observation

LEFT = (0.0, 0.0, 0.5, 1.0)
MASK = np.zeros((20, 30), bool)
MASK[:, :15] = True
REGIONS = {
    "box": LEFT,
    "mask": MASK,
    "function": lambda _: LEFT,
    "mask by function": lambda _: MASK,
}


@pytest.mark.parametrize("region", REGIONS.values(), ids=REGIONS)
@pytest.mark.parametrize("size", [(20, 30), (40, 60), (401, 600), (10, 15)])
@pytest.mark.parametrize(
    ("start", "end", "expected"), [(0, 0.4, 0.0), (0.6, 1, 1.0), (0.4, 0.6, 0.5)]
)
def test_weight_outside_is_measured_at_every_size(region, size, start, end, expected):
    width = size[1]
    map = spot(slice(3, 8), slice(round(start * width), round(end * width)), size)
    found = Monitor(region).observe(planted(map)).outside
    pixel = 1 / (0.2 * width) if width % 2 and expected == 0.5 else 1e-6  # the edge cuts one
    assert found == pytest.approx(expected, abs=pixel)


def test_pixels_on_a_boxs_edge_count_in_part():
    map = np.zeros((4, 3), np.float32)
    map[:, 1] = 1
    assert Observation.of(planted(map), (0, 0, 0.5, 1)).outside == pytest.approx(0.5)
    assert Observation.of(planted(map), (0, 0, 0.5, 0.5)).outside == pytest.approx(0.75)


def test_weights_count_by_their_size():
    map = spot(slice(0, 10), slice(0, 10))
    map[30:40, 50:60] = 0.25
    assert Observation.of(planted(map), LEFT).outside == pytest.approx(0.2)


def test_what_singles_out_nothing_has_no_fraction_outside():
    for map in (np.zeros((40, 60)), np.full((40, 60), 0.3)):
        found = Observation.of(planted(map), LEFT)
        assert (found.outside, found.flat) == (None, True)
    assert Observation.of(planted(spot(slice(9), slice(9)))).outside is None
    assert Observation.of(planted(spot(slice(9), slice(9))), lambda _: None).outside is None


def test_a_function_may_follow_the_target():
    def above_the_middle(explanation):
        mask = np.zeros(explanation.map.shape, bool)
        mask[: len(mask) // 2] = True
        return mask

    monitor = Monitor(above_the_middle)
    assert monitor.observe(planted(spot(slice(0, 10), slice(9)))).outside == 0
    assert monitor.observe(planted(spot(slice(0, 10), slice(9), (10, 20)))).outside == 0.5


def test_a_mask_of_another_aspect_ratio_is_one_clear_line():
    monitor = Monitor(MASK)
    with pytest.raises(OptionError, match=r"20 x 30, but the map is 40 x 40.*aspect") as found:
        monitor.observe(planted(spot(slice(9), slice(9), (40, 40))))
    assert "\n" not in str(found.value)
    assert monitor.summary().observed == 0


@pytest.mark.parametrize(
    ("region", "match"),
    [
        ((10, 10, 200, 200), "in fractions of the image"),
        ((0.5, 0, 0.5, 1), "in fractions of the image"),
        ((0, 0, 1), "pass a boolean mask"),
        ((0, 0, 1, float("nan")), "pass a boolean mask"),
        ("left", "pass a boolean mask"),
        (np.zeros((4, 4), np.uint8), r"uint8 \[4, 4\]; pass a boolean mask"),
        (np.zeros((4, 4), bool), "contains no pixel"),
        (np.ones(4, bool), "pass a boolean mask"),
        (True, "pass a boolean mask"),
    ],
)
def test_an_invalid_region_is_one_line(region, match):
    with pytest.raises(OptionError, match=match) as found:
        Monitor(region)
    assert "\n" not in str(found.value)
    with pytest.raises(OptionError, match=match):
        Observation.of(planted(spot(slice(9), slice(9))), lambda _: region)


def test_a_function_that_fails_is_one_line():
    with pytest.raises(OptionError, match=r"region's function raised ZeroDivisionError") as found:
        Monitor(lambda _: 1 // 0).observe(planted(spot(slice(9), slice(9))))
    assert "\n" not in str(found.value)


def test_a_mask_that_changes_later_does_not_change_the_monitor():
    mask = MASK.copy()
    monitor = Monitor(mask)
    mask[:] = True
    assert monitor.observe(planted(spot(slice(9), slice(50, 60)))).outside == 1

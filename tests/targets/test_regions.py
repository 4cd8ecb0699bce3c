"""Regions as users mark them, and as places of a grid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import ibisa_onnx as ibisa
from ibisa_onnx.targets.regions import Region, region_mask


def test_a_region_is_its_places():
    mask = np.zeros((3, 5), bool)
    mask[1, 2:4] = True
    region = Region.of(mask)
    np.testing.assert_array_equal(region.mask, mask)
    assert region.cells.tolist() == [7, 8]
    assert region.share == pytest.approx(2 / 15)
    assert region.around == pytest.approx((2 / 5, 1 / 3, 4 / 5, 2 / 3))
    assert region == Region.of(mask.copy())
    assert hash(region) == hash(Region.of(mask.copy()))
    assert region != Region.of(mask.T)


@pytest.mark.parametrize(
    ("box", "pixels"),
    [((1, 2, 4, 5), 9), ((1.2, 2.2, 1.4, 2.4), 1), ((-3, -3, 2, 1), 2), ([0, 0, 99, 99], 48)],
)
def test_a_box_is_the_pixels_that_it_touches(box: Any, pixels: int):
    assert region_mask(box, (6, 8)).sum() == pixels


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, np.float32])
def test_a_mask_of_any_type_is_what_is_not_0(dtype: Any):
    mask = np.eye(6, 8).astype(dtype)
    np.testing.assert_array_equal(region_mask(mask, (6, 8)), mask != 0)
    np.testing.assert_array_equal(region_mask(mask[..., None], (6, 8)), mask != 0)


def test_a_deep_mask_keeps_its_darkest_values(tmp_path: Path):
    mask = np.zeros((6, 8), np.uint16)
    mask[2, 3] = 1  # of 65535
    cv2.imwrite(str(tmp_path / "mask.png"), mask)
    assert np.argwhere(region_mask(tmp_path / "mask.png", (6, 8))).tolist() == [[2, 3]]


@pytest.mark.parametrize(
    ("region", "said"),
    [
        (np.zeros((6, 8)), "region is empty; mark the region in any colour but black"),
        (
            np.ones((8, 6)),
            "region is 6 x 8, but the image is 8 x 6; pass a mask",
        ),
        ((1, 2, np.nan, 4), "pass left, top, right, bottom in pixels"),
        (("a", "b", "c", "d"), "pass left, top, right, bottom in pixels"),
        (np.ones((1, 1, 6, 8)), r"region is float64 \[1, 1, 6, 8\]; pass a mask \[H, W\]"),
        (np.array(3), r"region is int64 \[\]"),
    ],
)
def test_what_is_no_region_is_refused(region: Any, said: str):
    with pytest.raises(ibisa.TargetError, match=said):
        region_mask(region, (6, 8))

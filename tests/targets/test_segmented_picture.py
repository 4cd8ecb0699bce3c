"""What segmenters say of a picture: planted squares of colour, margins, one map, and names."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest

import ibisa_onnx as ibisa
from ibisa_onnx.targets.segmentation import RegionTarget, SegmenterKind
from ibisa_onnx.targets.segmented_picture import FOREGROUND, PASCAL_VOC


@pytest.fixture(scope="module")
def explainer(segmented: Any) -> ibisa.Explainer:
    return segmented.opened(segmented.model(labels=segmented.NAMES))


def test_what_the_picture_has_is_told_largest_first(segmented: Any, explainer: ibisa.Explainer):
    assert isinstance(explainer.kind, SegmenterKind)
    background, red, green = explainer.answers(segmented.picture())
    assert [each.caption for each in (background, red, green)] == list(segmented.NAMES)
    assert [each.index for each in (background, red, green)] == [0, 1, 2]
    assert red.number is None  # no flag takes one
    areas = [each.details["area"] for each in (background, red, green)]
    assert sum(areas) == pytest.approx(1)
    assert areas == sorted(areas, reverse=True)
    assert red.box == pytest.approx((3, 4, 15, 14), abs=1)
    assert 0.9 < red.score < 1


def test_the_background_is_what_the_labels_call_so(segmented: Any):
    """Not the class of the border, where labels name another, or none, as nothing."""
    road = segmented.opened(segmented.model(labels=("road", "red", "green")))
    assert road.problem(segmented.picture()).row.objective.describe()["label"] == "road"
    unnamed = segmented.opened(segmented.model())
    assert (
        unnamed.problem(segmented.picture())
        .row.objective.describe()["caption"]
        .startswith("class 1, ")
    )
    covered = np.zeros((segmented.SIDE, segmented.SIDE, 3), np.uint8)
    covered[..., 0] = 255
    covered[8:24, 8:24] = 0  # all around it is red, so that 0 is no background
    covered[12:14, 12:14, 1] = 255
    assert unnamed.problem(covered).row.objective.describe()["index"] == 1


def test_a_name_needs_labels(segmented: Any):
    with pytest.raises(ibisa.TargetError, match="the model's labels are unknown"):
        segmented.opened(segmented.model()).explain(segmented.picture(), "red")


# -- where the picture lies


def test_points_and_boxes_are_of_the_picture_whatever_its_size(
    segmented: Any, explainer: ibisa.Explainer
):
    large = cv2.resize(segmented.picture(), (96, 64), interpolation=cv2.INTER_NEAREST)
    stretched = segmented.opened(
        segmented.model(labels=segmented.NAMES), overrides={"resize": "stretch"}
    )
    row = stretched.problem(large, RegionTarget(at=(60, 50))).row.objective
    assert row.label == "green"
    assert row.box == pytest.approx((48, 40, 90, 56), abs=4)


def test_margins_are_no_part_of_the_picture(segmented: Any):
    wide = segmented.picture()[:16]
    boxed = segmented.opened(
        segmented.model(labels=segmented.NAMES), overrides={"resize": "letterbox", "pad_value": 0}
    )
    background, red = boxed.answers(wide)
    assert background.details["area"] + red.details["area"] == pytest.approx(1)
    assert background.box == pytest.approx((0, 0, 32, 16))
    assert red.box == pytest.approx((3, 4, 15, 14), abs=1)


def test_what_is_cropped_away_is_not_seen(segmented: Any):
    wide = np.concatenate(
        [np.zeros((segmented.SIDE, segmented.SIDE, 3), np.uint8), segmented.picture()], axis=1
    )
    cropped = segmented.opened(
        segmented.model(labels=segmented.NAMES), overrides={"resize": "shortest"}
    )
    with pytest.raises(ibisa.TargetError, match="the model does not see 2,3"):
        cropped.explain(wide, RegionTarget(at=(2, 3)))
    with pytest.raises(
        ibisa.TargetError, match="outside the part of the image that the model sees"
    ):
        cropped.explain(wide, RegionTarget(region=(0, 0, 8, 8)))
    background, red = cropped.answers(wide)
    assert background.details["area"] + red.details["area"] == pytest.approx(0.5)
    assert red.box == pytest.approx((35, 4, 47, 14), abs=1)


def test_a_region_smaller_than_a_place_is_still_one(segmented: Any):
    coarse = segmented.opened(segmented.model(labels=segmented.NAMES, stride=4))
    row = coarse.problem(segmented.picture(), RegionTarget(region=(8, 8, 9, 9))).row.objective
    assert row.label == "red"
    assert len(row.region.cells) == 1


# -- one map


def test_one_map_is_a_foreground(segmented: Any):
    heat = segmented.opened(segmented.model(classes=1))
    (answer,) = heat.answers(segmented.picture())
    assert (answer.caption, answer.index) == (FOREGROUND, 0)
    found = heat.explain(segmented.picture())
    assert found.target.caption.startswith("foreground, ")
    assert segmented.on(found, segmented.RED) > 0.8
    with pytest.raises(ibisa.TargetError, match=r"at 20,24; .* foreground 0%; the image contains"):
        heat.explain(segmented.picture(), RegionTarget(at=(20, 24)))
    with pytest.raises(
        ibisa.TargetError, match="no part of the image reaches 50%; the highest probability is"
    ):
        heat.explain(segmented.picture(red=40))
    assert heat.answers(segmented.picture(red=40)) == []


@pytest.mark.parametrize("labels", [["text"], ["nothing", "text"]])
def test_one_map_is_called_as_the_label_says(segmented: Any, labels: list[str]):
    heat = segmented.opened(segmented.model(classes=1), labels=labels)
    assert heat.explain(segmented.picture(), "text").target.label == "text"


def test_of_a_map_that_is_high_everywhere_the_higher_half_is_the_region(segmented: Any):
    """As importance is, whose least value may be a half."""
    heat = segmented.opened(segmented.model(classes=1, least=0.1))
    found = heat.explain(segmented.picture())
    assert any("above 50%" in each for each in found.warnings)
    assert found.target.details["box"] == pytest.approx([3, 4, 15, 14], abs=1)


# -- names


def test_pascal_voc_names_are_a_stated_guess(segmented: Any):
    voc = segmented.opened(segmented.model(classes=21))
    found = voc.explain(segmented.picture())
    assert found.target.label == PASCAL_VOC[1] == "aeroplane"
    assert any("assumed to be Pascal VOC's" in each for each in found.warnings)
    named = segmented.opened(segmented.model(classes=21), labels=[f"c{n}" for n in range(21)])
    found = named.explain(segmented.picture(), "c1")
    assert not any("Pascal" in each for each in found.warnings)


def test_labels_of_another_number_are_refused(segmented: Any):
    with pytest.raises(ibisa.TargetError, match="there are 2 labels for the model's 3 classes"):
        segmented.opened(segmented.model(), labels=["a", "b"]).explain(segmented.picture())

"""Regions of segmenters: planted squares of colour, what is pointed at, and a real bird."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import ibisa_onnx as ibisa
from ibisa_onnx.io.images import read_image
from ibisa_onnx.targets.onnx_nodes import OnnxObjective
from ibisa_onnx.targets.segmentation import RegionTarget


@pytest.fixture(scope="module")
def explainer(segmented: Any) -> ibisa.Explainer:
    return segmented.opened(segmented.model(labels=segmented.NAMES))


@pytest.mark.parametrize("stride", [1, 4])
@pytest.mark.parametrize("label", ["red", "green"])
def test_the_map_of_a_class_falls_on_its_square(segmented: Any, label: str, stride: int):
    found = segmented.opened(segmented.model(labels=segmented.NAMES, stride=stride)).explain(
        segmented.picture(), label
    )
    assert (found.target.kind, found.target.label) == ("region", label)
    assert found.target.caption.startswith(f"{label}, ")
    assert found.certificate.gradient == "exact"
    assert segmented.on(found, getattr(segmented, label.upper())) > 0.8


def test_without_a_target_the_largest_thing_is_explained(
    segmented: Any, explainer: ibisa.Explainer
):
    assert explainer.explain(segmented.picture()).target.label == "red"
    assert explainer.explain(segmented.picture(red=0)).target.label == "green"
    nothing = explainer.problem(
        np.zeros((segmented.SIDE, segmented.SIDE, 3), np.uint8)
    ).row.objective.describe()
    assert nothing["caption"] == "background, 100% of the image"


# -- what is pointed at


def test_a_point_means_the_connected_region_of_its_class(
    segmented: Any, explainer: ibisa.Explainer
):
    pixels = segmented.picture(green=0)
    pixels[segmented.GREEN][..., 0] = 255  # a second red square
    both = explainer.problem(pixels, "red").row.objective
    one = explainer.problem(pixels, RegionTarget(at=(20, 24))).row.objective
    other = explainer.problem(pixels, RegionTarget("red", at=(5, 5))).row.objective
    assert one.describe()["label"] == "red"
    assert one.describe()["box"] == pytest.approx([16, 20, 30, 28], abs=1)
    assert one.extent + other.extent == pytest.approx(both.extent)
    assert not (one.region.mask & other.region.mask).any()


def test_a_region_means_the_class_that_is_there(
    segmented: Any, explainer: ibisa.Explainer, tmp_path: Path
):
    box = (14, 18, 31, 30)
    mask = np.zeros((segmented.SIDE, segmented.SIDE), np.uint8)
    mask[18:30, 14:31] = 1  # nearly black is not black
    path = tmp_path / "mask.png"
    cv2.imwrite(str(path), mask)
    several = [box, mask, mask.astype(bool), np.repeat(mask[..., None], 3, 2), path, str(path)]
    found = [
        explainer.problem(segmented.picture(), RegionTarget(region=each)).row for each in several
    ]
    assert len({each.objective for each in found}) == 1
    assert found[0].objective.label == "green"
    whole = explainer.problem(segmented.picture(), "green").row.objective
    assert found[0].objective.region == whole.region  # of the box the places that are green


@pytest.mark.parametrize("as_mask", [False, True])
def test_of_a_box_and_of_a_mask_the_same_places_count_and_that_is_told(
    segmented: Any, explainer: ibisa.Explainer, as_mask: bool
):
    box = (2, 2, 17, 16)  # around the red square, whose corners the model smooths
    mask = np.zeros((segmented.SIDE, segmented.SIDE), bool)
    mask[2:16, 2:17] = True
    found = explainer.explain(segmented.picture(), RegionTarget(region=mask if as_mask else box))
    alone = explainer.problem(segmented.picture(), "red").row.objective
    assert found.target.details["box"] == alone.describe()["box"]
    (said,) = (each for each in found.warnings if "of the region" in each)
    assert said == "the model assigns 55% of the region to red; only that part is explained"


def test_a_region_partly_outside_the_picture_is_told_of(segmented: Any, explainer: ibisa.Explainer):
    said = explainer.explain(segmented.picture(), RegionTarget(region=(4, 5, 40, 13))).warnings
    beyond = (
        "region 4,5,40,13 extends beyond the image, which is 32 x 32 pixels; only the part inside"
    )
    assert any(each.startswith(beyond) for each in said)
    said = explainer.explain(segmented.picture(), RegionTarget(region=(4, 5, 14, 13))).warnings
    assert not any("region" in each for each in said)


def test_a_region_may_be_asked_for_a_class_that_is_not_there(
    segmented: Any, explainer: ibisa.Explainer
):
    row = explainer.problem(segmented.picture(), RegionTarget("red", region=(16, 20, 30, 28))).row
    assert row.objective.extent == pytest.approx(14 * 8 / segmented.SIDE**2)
    assert row.probability < 0.01


def test_transparent_parts_of_a_mask_are_outside(
    segmented: Any, explainer: ibisa.Explainer, tmp_path: Path
):
    cut = np.full((segmented.SIDE, segmented.SIDE, 4), 255, np.uint8)
    cut[..., 3] = 0
    cut[segmented.GREEN][..., 3] = 255
    cv2.imwrite(str(tmp_path / "cut.png"), cut)
    target = RegionTarget("red", region=tmp_path / "cut.png")
    row = explainer.problem(segmented.picture(), target).row
    assert row.objective.extent == pytest.approx(14 * 8 / segmented.SIDE**2)


def test_the_same_region_named_twice_is_explained_once(segmented: Any, explainer: ibisa.Explainer):
    targets = ["red", 1, "1", "class 1", RegionTarget("red"), RegionTarget(at=(5, 5))]
    assert len(explainer.explain_all(segmented.picture(), targets)) == 1


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("blue", "there is no label 'blue'"),
        (3, "class 3 is out of range: classes are 0 to 2"),
        (-1, "class -1 is out of range"),
        (
            "green",
            r"there is no green in this image; the image contains: background 8\d%, red 1\d%",
        ),
        (
            RegionTarget("red", at=(20, 24)),
            "there is no red at 20,24; found there: backgr",
        ),
        (RegionTarget(at=(33, 4)), "at 33,4 is outside the image, which is 32 x 32 pixels"),
        (RegionTarget(at=(-1, 4)), "at -1,4 is outside"),
        (RegionTarget(at=(1, 2, 3)), r"at is \(1, 2, 3\); pass x and y"),
        (RegionTarget(region=(5, 5, 5, 9)), "region 5,5,5,9 is empty"),
        (RegionTarget(region=(40, 5, 50, 9)), "region 40,5,50,9 is outside the image"),
        (RegionTarget(region=(1, 2, 3)), r"region is \[1, 2, 3\]; pass left, top"),
        (RegionTarget(region=np.zeros((32, 32), bool)), "region is empty"),
        (RegionTarget(region=np.ones((4, 8), bool)), "region is 8 x 4, but the image is 32 x 32"),
        (RegionTarget(region=np.array("mask")), r"region is <U4 \[\]"),
        (RegionTarget(at=(1, 1), region=(1, 1, 2, 2)), "at and region are mutually exclusive"),
    ],
)
def test_what_is_not_there_is_told_in_a_line(
    segmented: Any, explainer: ibisa.Explainer, target: Any, said: str
):
    with pytest.raises(ibisa.TargetError, match=said) as error:
        explainer.explain(segmented.picture(green=0), target)
    assert "\n" not in str(error.value)


def test_a_mask_that_is_no_picture_is_told(
    segmented: Any, explainer: ibisa.Explainer, tmp_path: Path
):
    with pytest.raises(ibisa.ImageError, match=r"image file .*none.png does not exist"):
        explainer.explain(segmented.picture(), RegionTarget(region=tmp_path / "none.png"))


def test_a_model_without_regions_says_what_it_is(segmented: Any, mean_model: Any):
    classifier = segmented.opened(mean_model().SerializeToString())
    with pytest.raises(ibisa.TargetError, match="kind is classifier, which has no regions"):
        classifier.explain(np.zeros((8, 8, 3), np.uint8), RegionTarget(at=(1, 1)))


# -- the objective


def test_the_record_comes_back_from_disk(
    segmented: Any, explainer: ibisa.Explainer, tmp_path: Path
):
    found = explainer.explain(segmented.picture(), "red")
    found.save(tmp_path)
    loaded = ibisa.Explanation.load(tmp_path)
    assert loaded.target == found.target
    assert loaded.target.details.keys() == {"box", "area"}


def test_regions_of_several_classes_are_explained_together(
    segmented: Any, explainer: ibisa.Explainer
):
    red, green = explainer.explain_all(segmented.picture(), ["red", "green"])
    assert segmented.on(red, segmented.RED) > 0.8
    assert segmented.on(green, segmented.GREEN) > 0.8
    alone = explainer.explain(segmented.picture(), "green")
    np.testing.assert_allclose(green.map, alone.map, atol=1e-4)


def test_every_method_explains_it(segmented: Any, explainer: ibisa.Explainer):
    for method in ("rise", "occlusion", "random"):
        found = explainer.explain(segmented.picture(), "red", method=method)
        assert (found.method, found.target.kind) == (method, "region")


def test_written_as_nodes_it_gives_the_same_map(segmented: Any, explainer: ibisa.Explainer):
    made = explainer.problem(segmented.picture(), "red").row.objective
    nodes = OnnxObjective(
        lambda head: made.maps.write(head, made.region.cells, made.column), "red, by nodes"
    )
    found = explainer.explain(segmented.picture(), "red")
    other = explainer.explain(segmented.picture(), nodes)
    assert other.certificate.gradient == "exact"
    assert other.target.probability == pytest.approx(found.target.probability, rel=1e-5)
    assert np.corrcoef(found.map.ravel(), other.map.ravel())[0, 1] > 0.95  # its extent is not known


@pytest.mark.real
@pytest.mark.parametrize(("baseline", "least"), [("auto", 0.5), ("inpaint", 0.65)])
def test_the_map_of_a_bird_lies_on_the_bird(assets: Path, baseline: str, least: float):
    options = ibisa.Options(baseline=baseline)
    explainer = ibisa.Explainer(assets / "models" / "deeplabv3_int8.onnx", options=options)
    folder = assets / "segmentation"
    bird = read_image(folder / "bird_segmentation_mask.bmp").any(2)
    found = explainer.explain(folder / "bird_segmentation.bmp")
    assert found.target.label == "bird"
    assert found.certificate.gradient == "exact"
    near = cv2.dilate(bird.astype(np.uint8), np.ones((17, 17), np.uint8)) > 0
    assert found.map[bird].sum() > least * found.map.sum()
    assert found.map[near].sum() > 0.7 * found.map.sum()
    assert found.sufficiency is not None
    lost, *_, most = found.sufficiency.probabilities
    assert lost < 0.05
    assert most > 0.9

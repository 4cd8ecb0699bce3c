"""Regions of segmenters: planted squares of colour, what is pointed at, and a real bird."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import ibisa_onnx as ibisa
from ibisa_onnx.io.images import read_image
from ibisa_onnx.targets.onnx_nodes import OnnxObjective
from ibisa_onnx.targets.segmentation import FOREGROUND, PASCAL_VOC, RegionTarget, SegmenterKind

SIDE = 32
RED, GREEN = (slice(4, 14), slice(3, 15)), (slice(20, 28), slice(16, 30))
NAMES = ("background", "red", "green")


def segmenter(
    classes: int = 3, stride: int = 1, labels: tuple[str, ...] = (), least: float = -6.0
) -> bytes:
    """`scores` [n, classes, h, w]: of class 1 and 2 how red and how green a place is.

    Class 0 has the same score everywhere. Of one class it is how red it is, `least` or more.
    """
    gain = 12.0
    kernel = np.zeros((classes, 3, 3, 3), np.float32)
    first = 0 if classes == 1 else 1
    kernel[first, 0] = kernel[first + 1 : first + 2, 1] = gain / 9
    bias = np.full(classes, -gain, np.float32)
    bias[0], bias[1:3] = least if classes == 1 else gain / 2, 0
    nodes = [helper.make_node("Conv", ["image", "kernel", "bias"], ["fine"], pads=[1, 1, 1, 1])]
    sides = [stride, stride]
    nodes += [
        helper.make_node("AveragePool", ["fine"], ["scores"], kernel_shape=sides, strides=sides)
    ]
    graph = helper.make_graph(
        nodes,
        "segmenter",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, SIDE, SIDE])],
        [
            helper.make_tensor_value_info(
                "scores", TensorProto.FLOAT, ["n", classes, SIDE // stride, SIDE // stride]
            )
        ],
        [numpy_helper.from_array(kernel, "kernel"), numpy_helper.from_array(bias, "bias")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    if labels:
        helper.set_model_props(model, {"names": repr(list(labels))})
    return bytes(model.SerializeToString())


def picture(red: int = 255, green: int = 255) -> np.ndarray:
    """A black picture with a red and a green square."""
    pixels = np.zeros((SIDE, SIDE, 3), np.uint8)
    pixels[RED][..., 0] = red
    pixels[GREEN][..., 1] = green
    return pixels


def opened(data: bytes, **settings: Any) -> ibisa.Explainer:
    settings = {"preprocessing": "unit", "threads": 1, **settings}
    return ibisa.Explainer(data, options=ibisa.Options(baseline="mean", grid=16), **settings)


@pytest.fixture(scope="module")
def explainer() -> ibisa.Explainer:
    return opened(segmenter(labels=NAMES))


def on(found: ibisa.Explanation, square: tuple[slice, slice]) -> float:
    """The share of a map that is on a square, or next to it."""
    rows, columns = (slice(each.start - 1, each.stop + 1) for each in square)
    return float(found.map[rows, columns].sum() / found.map.sum())


# -- what it says


def test_what_the_picture_has_is_told_largest_first(explainer: ibisa.Explainer):
    assert isinstance(explainer.kind, SegmenterKind)
    background, red, green = explainer.answers(picture())
    assert [each.caption for each in (background, red, green)] == list(NAMES)
    assert [each.index for each in (background, red, green)] == [0, 1, 2]
    areas = [each.details["area"] for each in (background, red, green)]
    assert sum(areas) == pytest.approx(1)
    assert areas == sorted(areas, reverse=True)
    assert red.box == pytest.approx((3, 4, 15, 14), abs=1)
    assert 0.9 < red.score < 1


@pytest.mark.parametrize("stride", [1, 4])
@pytest.mark.parametrize(("label", "square"), [("red", RED), ("green", GREEN)])
def test_the_map_of_a_class_falls_on_its_square(
    label: str, square: tuple[slice, slice], stride: int
):
    found = opened(segmenter(labels=NAMES, stride=stride)).explain(picture(), label)
    assert (found.target.kind, found.target.label) == ("region", label)
    assert found.target.caption.startswith(f"{label}, ")
    assert found.certificate.gradient == "exact"
    assert on(found, square) > 0.8


def test_without_a_target_the_largest_thing_is_explained(explainer: ibisa.Explainer):
    assert explainer.explain(picture()).target.label == "red"
    assert explainer.explain(picture(red=0)).target.label == "green"
    nothing = explainer.problem(np.zeros((SIDE, SIDE, 3), np.uint8)).row.objective.describe()
    assert nothing["caption"] == "background, 100% of the picture"


def test_the_background_is_what_the_labels_call_so():
    """Not the class of the border, where labels name another, or none, as nothing."""
    road = opened(segmenter(labels=("road", "red", "green")))
    assert road.problem(picture()).row.objective.describe()["label"] == "road"
    unnamed = opened(segmenter())
    assert unnamed.problem(picture()).row.objective.describe()["caption"].startswith("class 1, ")
    covered = np.zeros((SIDE, SIDE, 3), np.uint8)
    covered[..., 0] = 255
    covered[8:24, 8:24] = 0  # all around it is red, so that 0 is no background
    covered[12:14, 12:14, 1] = 255
    assert unnamed.problem(covered).row.objective.describe()["index"] == 1


# -- what is pointed at


def test_a_point_means_the_connected_region_of_its_class(explainer: ibisa.Explainer):
    pixels = picture(green=0)
    pixels[GREEN][..., 0] = 255  # a second red square
    both = explainer.problem(pixels, "red").row.objective
    one = explainer.problem(pixels, RegionTarget(at=(20, 24))).row.objective
    other = explainer.problem(pixels, RegionTarget("red", at=(5, 5))).row.objective
    assert one.describe()["label"] == "red"
    assert one.describe()["box"] == pytest.approx([16, 20, 30, 28], abs=1)
    assert one.extent + other.extent == pytest.approx(both.extent)
    assert not (one.region.mask & other.region.mask).any()


def test_a_region_means_the_class_that_is_there(explainer: ibisa.Explainer, tmp_path: Path):
    box = (14, 18, 31, 30)
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[18:30, 14:31] = 1  # nearly black is not black
    path = tmp_path / "mask.png"
    cv2.imwrite(str(path), mask)
    several = [box, mask, mask.astype(bool), np.repeat(mask[..., None], 3, 2), path, str(path)]
    found = [explainer.problem(picture(), RegionTarget(region=each)).row for each in several]
    assert len({each.objective for each in found}) == 1
    assert found[0].objective.label == "green"
    whole = explainer.problem(picture(), "green").row.objective
    assert found[0].objective.region == whole.region  # of the box the places that are green


def test_a_region_may_be_asked_for_a_class_that_is_not_there(explainer: ibisa.Explainer):
    row = explainer.problem(picture(), RegionTarget("red", region=(16, 20, 30, 28))).row
    assert row.objective.extent == pytest.approx(14 * 8 / SIDE**2)
    assert row.probability < 0.01


def test_transparent_parts_of_a_mask_are_outside(explainer: ibisa.Explainer, tmp_path: Path):
    cut = np.full((SIDE, SIDE, 4), 255, np.uint8)
    cut[..., 3] = 0
    cut[GREEN][..., 3] = 255
    cv2.imwrite(str(tmp_path / "cut.png"), cut)
    target = RegionTarget("red", region=tmp_path / "cut.png")
    row = explainer.problem(picture(), target).row
    assert row.objective.extent == pytest.approx(14 * 8 / SIDE**2)


def test_the_same_region_named_twice_is_explained_once(explainer: ibisa.Explainer):
    targets = ["red", 1, "1", RegionTarget("red"), RegionTarget(at=(5, 5))]
    assert len(explainer.explain_all(picture(), targets)) == 1


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("blue", "there is no label 'blue'"),
        (3, "class 3 is out of range: classes are 0 to 2"),
        (-1, "class -1 is out of range"),
        ("green", r"there is no green here; there is: background 8\d%, red 1\d%"),
        (RegionTarget("red", at=(20, 24)), "there is no red at 20,24; there is: background"),
        (RegionTarget(at=(33, 4)), "at 33,4 is outside the picture, which is 32 x 32"),
        (RegionTarget(at=(-1, 4)), "at -1,4 is outside"),
        (RegionTarget(at=(1, 2, 3)), r"at is \(1, 2, 3\); give x and y"),
        (RegionTarget(region=(5, 5, 5, 9)), "region 5,5,5,9 is empty"),
        (RegionTarget(region=(40, 5, 50, 9)), "region 40,5,50,9 is outside the picture"),
        (RegionTarget(region=(1, 2, 3)), r"region is \[1, 2, 3\]; give left, top"),
        (RegionTarget(region=np.zeros((SIDE, SIDE), bool)), "region is empty"),
        (RegionTarget(region=np.ones((4, 8), bool)), "region is 8 x 4 and the picture 32 x 32"),
        (RegionTarget(region=np.array("mask")), r"region is <U4 \[\]"),
        (RegionTarget(at=(1, 1), region=(1, 1, 2, 2)), "at and region are both given"),
    ],
)
def test_what_is_not_there_is_told_in_a_line(explainer: ibisa.Explainer, target: Any, said: str):
    with pytest.raises(ibisa.TargetError, match=said) as error:
        explainer.explain(picture(green=0), target)
    assert "\n" not in str(error.value)


def test_a_mask_that_is_no_picture_is_told(explainer: ibisa.Explainer, tmp_path: Path):
    with pytest.raises(ibisa.ImageError, match="there is no picture"):
        explainer.explain(picture(), RegionTarget(region=tmp_path / "none.png"))


def test_a_model_without_regions_says_what_it_is(mean_model: Any):
    classifier = opened(mean_model().SerializeToString())
    with pytest.raises(ibisa.TargetError, match="the model's kind is classifier, without regions"):
        classifier.explain(np.zeros((8, 8, 3), np.uint8), RegionTarget(at=(1, 1)))


def test_a_name_needs_labels():
    with pytest.raises(ibisa.TargetError, match="the model's labels are not known"):
        opened(segmenter()).explain(picture(), "red")


# -- where the picture lies


def test_points_and_boxes_are_of_the_picture_whatever_its_size(explainer: ibisa.Explainer):
    large = cv2.resize(picture(), (96, 64), interpolation=cv2.INTER_NEAREST)
    stretched = opened(segmenter(labels=NAMES), overrides={"resize": "stretch"})
    row = stretched.problem(large, RegionTarget(at=(60, 50))).row.objective
    assert row.label == "green"
    assert row.box == pytest.approx((48, 40, 90, 56), abs=4)


def test_margins_are_no_part_of_the_picture():
    wide = picture()[:16]
    boxed = opened(segmenter(labels=NAMES), overrides={"resize": "letterbox", "pad_value": 0})
    background, red = boxed.answers(wide)
    assert background.details["area"] + red.details["area"] == pytest.approx(1)
    assert background.box == pytest.approx((0, 0, 32, 16))
    assert red.box == pytest.approx((3, 4, 15, 14), abs=1)


def test_what_is_cropped_away_is_not_seen():
    wide = np.concatenate([np.zeros((SIDE, SIDE, 3), np.uint8), picture()], axis=1)
    cropped = opened(segmenter(labels=NAMES), overrides={"resize": "shortest"})
    with pytest.raises(ibisa.TargetError, match="the model does not see 2,3"):
        cropped.explain(wide, RegionTarget(at=(2, 3)))
    with pytest.raises(ibisa.TargetError, match="outside what the model sees"):
        cropped.explain(wide, RegionTarget(region=(0, 0, 8, 8)))
    background, red = cropped.answers(wide)
    assert background.details["area"] + red.details["area"] == pytest.approx(0.5)
    assert red.box == pytest.approx((35, 4, 47, 14), abs=1)


def test_a_region_smaller_than_a_place_is_still_one():
    coarse = opened(segmenter(labels=NAMES, stride=4))
    row = coarse.problem(picture(), RegionTarget(region=(8, 8, 9, 9))).row.objective
    assert row.label == "red"
    assert len(row.region.cells) == 1


# -- one map


def test_one_map_is_a_foreground():
    heat = opened(segmenter(classes=1))
    (answer,) = heat.answers(picture())
    assert (answer.caption, answer.index) == (FOREGROUND, 0)
    found = heat.explain(picture())
    assert found.target.caption.startswith("foreground, ")
    assert on(found, RED) > 0.8
    with pytest.raises(ibisa.TargetError, match="no foreground at 20,24; there is: foreground"):
        heat.explain(picture(), RegionTarget(at=(20, 24)))
    with pytest.raises(ibisa.TargetError, match="nothing in the picture reaches 50%, the most is"):
        heat.explain(picture(red=40))
    assert heat.answers(picture(red=40)) == []


@pytest.mark.parametrize("labels", [["text"], ["nothing", "text"]])
def test_one_map_is_called_as_the_label_says(labels: list[str]):
    heat = opened(segmenter(classes=1), labels=labels)
    assert heat.explain(picture(), "text").target.label == "text"


def test_of_a_map_that_is_high_everywhere_the_higher_half_is_the_region():
    """As importance is, whose least value may be a half."""
    heat = opened(segmenter(classes=1, least=0.1))
    found = heat.explain(picture())
    assert any("above 50%" in each for each in found.warnings)
    assert found.target.details["box"] == pytest.approx([3, 4, 15, 14], abs=1)


# -- names


def test_pascal_voc_names_are_a_stated_guess():
    voc = opened(segmenter(classes=21))
    found = voc.explain(picture())
    assert found.target.label == PASCAL_VOC[1] == "aeroplane"
    assert any("Pascal VOC (a guess)" in each for each in found.warnings)
    named = opened(segmenter(classes=21), labels=[f"c{n}" for n in range(21)])
    found = named.explain(picture(), "c1")
    assert not any("Pascal" in each for each in found.warnings)


def test_labels_of_another_number_are_refused():
    with pytest.raises(ibisa.TargetError, match="there are 2 labels for the model's 3 classes"):
        opened(segmenter(), labels=["a", "b"]).explain(picture())


# -- the objective


def test_the_record_comes_back_from_disk(explainer: ibisa.Explainer, tmp_path: Path):
    found = explainer.explain(picture(), "red")
    found.save(tmp_path)
    loaded = ibisa.Explanation.load(tmp_path)
    assert loaded.target == found.target
    assert loaded.target.details.keys() == {"box", "area"}


def test_regions_of_several_classes_are_explained_together(explainer: ibisa.Explainer):
    red, green = explainer.explain_all(picture(), ["red", "green"])
    assert on(red, RED) > 0.8
    assert on(green, GREEN) > 0.8
    alone = explainer.explain(picture(), "green")
    np.testing.assert_allclose(green.map, alone.map, atol=1e-4)


def test_every_method_explains_it(explainer: ibisa.Explainer):
    for method in ("rise", "occlusion", "random"):
        found = explainer.explain(picture(), "red", method=method)
        assert (found.method, found.target.kind) == (method, "region")


def test_written_as_nodes_it_gives_the_same_map(explainer: ibisa.Explainer):
    made = explainer.problem(picture(), "red").row.objective
    nodes = OnnxObjective(
        lambda head: made.maps.write(head, made.region.cells, made.column), "red, by nodes"
    )
    found = explainer.explain(picture(), "red")
    other = explainer.explain(picture(), nodes)
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

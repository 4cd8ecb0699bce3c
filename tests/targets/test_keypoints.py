"""Keypoints: planted heat maps whose joints are where the picture is brightest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import ibisa_onnx as ibisa
from ibisa_onnx.targets.arguments import PointTarget
from ibisa_onnx.targets.facts import ModelFacts
from ibisa_onnx.targets.keypoints import KeypointTarget, find

SIDE = 32
UNIT = ibisa.Preprocessing((SIDE, SIDE), resize="stretch", scale=1 / 255)


def pose(name: str = "heatmaps") -> bytes:
    """Two maps [n, 2, 8, 8] of 4 x 4 pixels a cell: how red it is, and how green."""
    kernel = np.zeros((2, 3, 4, 4), np.float32)
    kernel[0, 0] = kernel[1, 1] = 1 / 16
    graph = helper.make_graph(
        [helper.make_node("Conv", ["image", "kernel"], [name], strides=[4, 4])],
        "pose",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 2, 8, 8])],
        [numpy_helper.from_array(kernel, "kernel")],
    )
    imports = [helper.make_opsetid("", 11)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8).SerializeToString()


def picture() -> np.ndarray:
    """A red spot at 16,40, and a paler green one at 48,16, of 64 x 64 pixels."""
    pixels = np.zeros((2 * SIDE, 2 * SIDE, 3), np.uint8)
    pixels[36:44, 12:20, 0] = 250
    pixels[12:20, 44:52, 1] = 150
    return pixels


@pytest.fixture(scope="module")
def explainer() -> ibisa.Explainer:
    return ibisa.Explainer(
        pose(), preprocessing=UNIT, labels=["hand", "foot"], threads=1, cache=False
    )


def test_joints_are_told_with_their_places(explainer: ibisa.Explainer):
    assert explainer.kind.name == "keypoints"
    hand, foot = explainer.answers(picture())
    assert (hand.caption, foot.caption) == ("hand", "foot")
    assert hand.score > foot.score > 0.1
    for joint, place in ((hand, (16, 40)), (foot, (48, 16))):
        assert np.abs(np.subtract(joint.details["at"], place)).max() <= 4


@pytest.mark.parametrize(
    ("target", "name"),
    [
        (None, "hand"),
        ("foot", "foot"),
        (1, "foot"),
        (KeypointTarget(at=(45, 10)), "foot"),
        (PointTarget((10, 50)), "hand"),
    ],
)
def test_the_map_of_a_joint_falls_on_it(explainer: ibisa.Explainer, target: object, name: str):
    found = explainer.explain(picture(), target)  # type: ignore[arg-type]
    assert found.target.caption == f"{name} (raise)"
    y, x = (40, 16) if name == "hand" else (16, 48)
    assert found.map[y - 8 : y + 8, x - 8 : x + 8].sum() > 0.95 * found.map.sum()


def test_all_joints_are_explained_in_one_call(explainer: ibisa.Explainer, tmp_path: Path):
    found = explainer.explain_all(picture(), "all")
    assert [each.target.details["joint"] for each in found] == [0, 1]
    found[0].save(tmp_path)
    assert ibisa.Explanation.load(tmp_path).target == found[0].target


def test_a_joint_that_is_not_there_is_refused(explainer: ibisa.Explainer):
    with pytest.raises(ibisa.TargetError, match="joint 2 is out of range: joints are 0 to 1"):
        explainer.explain(picture(), 2)
    nameless = ibisa.Explainer(pose(), preprocessing=UNIT, threads=1, cache=False)
    with pytest.raises(
        ibisa.TargetError, match="'hand' is a name, but the joints' labels are unknown"
    ):
        nameless.explain(picture(), "hand")
    assert nameless.answers(picture())[1].caption == "keypoint 1"
    assert nameless.explain(picture(), "keypoint 1").target.details["joint"] == 1


def test_heat_that_is_nan_is_no_joint(with_nan: Any):
    data = with_nan(pose(), "heatmaps")
    explainer = ibisa.Explainer(data, preprocessing=UNIT, threads=1, cache=False)
    assert len(explainer.answers(picture())) == 2
    for ask in (explainer.answers, explainer.explain):
        with pytest.raises(ibisa.OutputError, match="heatmaps has NaN or infinite values"):
            ask(np.zeros_like(picture()))


def test_maps_of_another_name_are_none():
    other = ibisa.Explainer(pose("scores"), preprocessing=UNIT, threads=1, kind="classifier")
    assert find(ModelFacts(other.model, UNIT)) is None
    with pytest.raises(ibisa.TargetError, match="kind is unknown, which has no keypoints"):
        other.explain(picture(), KeypointTarget())

"""The committed model and picture, as a user gets them."""

from __future__ import annotations

import json
from typing import Any

import cv2
import numpy as np
import onnx
import pytest

from ibisa_onnx.demo import LABELS, model_path, scene_path
from ibisa_onnx.demo.scenes import draw_scene

ort = pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    return onnx.load(model_path())


@pytest.fixture(scope="module")
def facts(model: onnx.ModelProto) -> dict[str, Any]:
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    facts = json.loads(metadata["ibisa"])
    assert isinstance(facts, dict)
    return facts


@pytest.fixture(scope="module")
def classify(facts: dict[str, Any]) -> Any:
    """Pictures uint8 [n, H, W, 3] to logits, prepared by nothing but what the file says."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model_path(), options, providers=["CPUExecutionProvider"])
    spec = facts["preprocessing"]

    def run(pictures: np.ndarray) -> np.ndarray:
        scaled = pictures.astype(np.float32) * np.float32(spec["scale"])
        normal = (scaled - np.float32(spec["mean"])) / np.float32(spec["std"])
        return session.run(None, {"image": normal.transpose(0, 3, 1, 2)})[0]

    return run


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def test_the_file_is_small_and_valid(model: onnx.ModelProto) -> None:
    assert model_path().stat().st_size < 1_000_000
    onnx.checker.check_model(model, full_check=True)


def test_the_file_says_how_to_feed_it(model: onnx.ModelProto, facts: dict[str, Any]) -> None:
    assert facts["version"] == 1
    assert tuple(facts["labels"]) == LABELS
    height, width = facts["preprocessing"]["size"]
    batch, *rest = model.graph.input[0].type.tensor_type.shape.dim
    assert batch.dim_param
    assert [dimension.dim_value for dimension in rest] == [3, height, width]
    assert model.graph.output[0].type.tensor_type.shape.dim[1].dim_value == len(LABELS)


def test_it_is_made_of_plain_operators(model: onnx.ModelProto) -> None:
    plain = {"Conv", "Relu", "MaxPool", "GlobalAveragePool", "Flatten", "Gemm"}
    assert {node.op_type for node in model.graph.node} <= plain


def test_it_is_right_on_fresh_scenes(classify: Any) -> None:
    rng = np.random.default_rng(777)
    scenes = [draw_scene(rng, count=1 + place % 3) for place in range(120)]
    order = np.argsort(-classify(np.stack([scene.image for scene in scenes])), axis=1)
    present = [{item.index for item in scene.objects} for scene in scenes]
    first = [best[0] in there for best, there in zip(order, present, strict=True)]
    pairs = [
        set(best[:2]) == there
        for best, there in zip(order, present, strict=True)
        if len(there) == 2
    ]
    assert np.mean(first) > 0.97
    assert np.mean(pairs) > 0.9


def test_it_is_flat_where_there_is_nothing_to_know(classify: Any) -> None:
    rng = np.random.default_rng(778)
    empty = [draw_scene(rng, count=0).image for _ in range(20)]
    blurred = [cv2.GaussianBlur(draw_scene(rng).image, (0, 0), 8) for _ in range(20)]
    for pictures in (empty, blurred):
        assert np.mean(softmax(classify(np.stack(pictures))).max(axis=1)) < 0.3


def test_hiding_one_of_two_objects_leaves_the_other(classify: Any) -> None:
    rng = np.random.default_rng(779)
    rises = []
    for _ in range(20):
        scene = draw_scene(rng, count=2)
        hidden, kept = scene.objects
        blurred = cv2.GaussianBlur(scene.image, (0, 0), 8)
        veil = cv2.GaussianBlur(hidden.mask.astype(np.float32), (0, 0), 4)[..., None] > 0.05
        share = softmax(classify(np.where(veil, blurred, scene.image)[None]))[0]
        rises.append(share[kept.index] > 0.6 and share[hidden.index] < 0.2)
    assert np.mean(rises) >= 0.9


@pytest.mark.parametrize("interpolation", [cv2.INTER_AREA, cv2.INTER_LINEAR, cv2.INTER_CUBIC])
def test_the_picture_shows_two_classes_and_the_model_sees_both(
    classify: Any, facts: dict[str, Any], interpolation: int
) -> None:
    picture = cv2.imread(str(scene_path()))[..., ::-1]
    assert min(picture.shape[:2]) >= 300
    height, width = facts["preprocessing"]["size"]
    small = cv2.resize(picture, (width, height), interpolation=interpolation)
    share = softmax(classify(small[None]))[0]
    top = np.argsort(-share)[:2]
    assert {LABELS[index] for index in top} == {"striped ball", "star"}
    assert share[top].min() > 0.3

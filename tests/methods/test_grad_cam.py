"""Grad-CAM is what its paper writes down."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import ibisa_onnx as ibisa
from ibisa_onnx.commands.flags import with_flags
from ibisa_onnx.errors import GradientError
from ibisa_onnx.gradients.layer import SplitModel
from ibisa_onnx.methods.grad_cam import GradCam

Open = Callable[..., ibisa.Explainer]
Network = Callable[[np.ndarray], tuple[torch.Tensor, torch.Tensor, torch.Tensor]]
SIDE, CHANNELS, CLASSES = 16, 6, 3


def scaled(saliency: np.ndarray) -> np.ndarray:
    positive = np.maximum(saliency, 0)
    return positive / max(positive.max(), 1e-9)


@pytest.mark.parametrize("target", range(CLASSES))
def test_the_closed_form_where_a_mean_and_a_matrix_follow(
    explainer: Open,
    picture: np.ndarray,
    network_weights: dict[str, np.ndarray],
    torch_network: Network,
    target: int,
) -> None:
    features, _, _ = torch_network(picture)
    alpha = network_weights["w"][:, target] / SIDE**2
    saliency = np.tensordot(alpha, features[0].detach().numpy(), 1)
    assert saliency.min() < 0  # or the ReLU would not be seen
    assert (saliency.max() > 0) == (target > 0)
    found = explainer().explain(picture, target, method=GradCam())
    np.testing.assert_allclose(found.map, scaled(saliency), atol=1e-5)


@pytest.mark.parametrize("last", ["Identity", "Softmax", "LogSoftmax"])
def test_of_the_score_before_the_softmax(
    explainer: Open, picture: np.ndarray, torch_network: Network, last: str
) -> None:
    _, deep, scores = torch_network(picture)
    (slope,) = torch.autograd.grad(scores[0, 1], deep)
    saliency = (slope.mean((2, 3), keepdim=True) * deep).sum(1)[0].detach().numpy()
    expected = cv2.resize(scaled(saliency), (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)
    found = explainer(deep=True, last=last).explain(picture, 1, method=GradCam())
    np.testing.assert_allclose(found.map, expected, atol=1e-5)
    assert found.certificate.reason == f"at deep, {CHANNELS} x {SIDE // 2} x {SIDE // 2}"


def test_at_a_named_layer(explainer: Open, picture: np.ndarray, torch_network: Network) -> None:
    features, _, scores = torch_network(picture)
    (slope,) = torch.autograd.grad(scores[0, 1], features)  # not the same everywhere
    saliency = (slope.mean((2, 3), keepdim=True) * features).sum(1)[0].detach().numpy()
    found = explainer(deep=True).explain(picture, 1, method=GradCam("features"))
    np.testing.assert_allclose(found.map, scaled(saliency), atol=1e-5)
    assert found.certificate.reason == f"at features, {CHANNELS} x {SIDE} x {SIDE}"
    assert found.provenance.options["layer"] == "features"
    with pytest.raises(GradientError, match=r"no float tensor 'g' .* choose from c1, features"):
        explainer().explain(picture, method=GradCam("g"))


def test_a_map_without_any_support_is_empty(explainer: Open, picture: np.ndarray) -> None:
    found = explainer().explain(picture, 0, method=GradCam())
    assert not found.map.any()
    assert any("flat map: no region" in each for each in found.warnings)


def test_a_second_part_that_gives_another_answer_is_told(
    explainer: Open, picture: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = explainer().explain(picture, 1, method=GradCam())
    assert honest.certificate.difference == pytest.approx(0, abs=1e-6)
    assert honest.certificate.holds
    forward = SplitModel.forward

    def wrong(self: SplitModel, *values: Any) -> Any:
        raw, saved = forward(self, *values)
        return raw + np.array([[0, 0.1, 0]], np.float32), saved

    monkeypatch.setattr(SplitModel, "forward", wrong)
    found = explainer().explain(picture, 1, method=GradCam())
    odds = np.exp(0.1) * honest.target.probability / (1 - honest.target.probability)
    expected = odds / (1 + odds) - honest.target.probability
    assert found.certificate.difference == pytest.approx(expected, abs=1e-5)
    assert not found.certificate.holds
    assert any("differs from the deployed model" in each for each in found.warnings)


@pytest.fixture
def two_heads() -> bytes:
    """Two levels of 8 x 8 and 4 x 4 places, each with a head of its own; 64 + 16 scores [1, 80]."""
    rng = np.random.default_rng(2)
    shapes = {"w1": (4, 3, 4, 4), "w2": (4, 4, 2, 2), "h1": (1, 4, 1, 1), "h2": (1, 4, 1, 1)}
    nodes = [
        helper.make_node("Conv", ["image", "w1"], ["c1"], strides=[4, 4]),
        helper.make_node("Relu", ["c1"], ["fine"]),
        helper.make_node("Conv", ["fine", "w2"], ["c2"], strides=[2, 2]),
        helper.make_node("Relu", ["c2"], ["coarse"]),
        helper.make_node("Conv", ["fine", "h1"], ["s1"]),
        helper.make_node("Conv", ["coarse", "h2"], ["s2"]),
        helper.make_node("Flatten", ["s1"], ["f1"]),
        helper.make_node("Flatten", ["s2"], ["f2"]),
        helper.make_node("Concat", ["f1", "f2"], ["scores"], axis=1),
    ]
    weights = [
        numpy_helper.from_array(np.abs(rng.normal(size=shape)).astype(np.float32), name)
        for name, shape in shapes.items()
    ]
    image, scores = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("image", [1, 3, 32, 32]), ("scores", [1, 80]))
    )
    graph = helper.make_graph(nodes, "heads", [image], [scores], weights)
    opsets = [helper.make_opsetid("", 13)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    return bytes(model.SerializeToString())


def test_of_several_levels_that_counts_which_the_answer_is_read_from(two_heads: bytes) -> None:
    picture = np.random.default_rng(0).integers(60, 256, (32, 32, 3), np.uint8)
    explainer = ibisa.Explainer(two_heads, preprocessing="unit", activation="softmax")
    found = explainer.explain(picture, 9, method=GradCam())
    assert found.certificate.reason == "at fine, 4 x 8 x 8"
    assert found.map.max() > 0.9
    assert found.passes.backward == 2  # one at each level
    assert not any("empty" in each for each in found.warnings)


def test_a_layer_beside_the_answers_path_is_told(two_heads: bytes) -> None:
    picture = np.full((32, 32, 3), 200, np.uint8)
    explainer = ibisa.Explainer(two_heads, preprocessing="unit", activation="softmax")
    found = explainer.explain(picture, 9, method=GradCam("coarse"))
    assert not found.map.any()
    (said,) = [each for each in found.warnings if "empty" in each]
    assert said.startswith("the map is empty: the score does not depend on coarse")
    assert "--gradcam-layer NAME" in with_flags(said)


@pytest.mark.real
def test_a_segmenters_features_are_chosen_before_its_map(assets):
    """The map itself is no feature of the picture."""
    explainer = ibisa.Explainer(assets / "models" / "deeplabv3_int8.onnx")
    bird = assets / "segmentation" / "bird_segmentation.bmp"
    found = explainer.explain(bird, "bird", method="gradcam")
    assert found.passes.backward == 1
    assert found.map.max() > 0.9

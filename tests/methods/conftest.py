"""A small network whose features are as large as its image, as ONNX and as PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper

import ibisa_onnx as ibisa

SIDE, CHANNELS, CLASSES = 16, 6, 3


def network_weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(2)
    shapes = {"k1": (CHANNELS, 3, 3, 3), "k2": (CHANNELS, CHANNELS, 3, 3), "w": (CHANNELS, CLASSES)}
    return {name: rng.normal(0, 0.5, shape).astype(np.float32) for name, shape in shapes.items()}


def network(*, deep: bool = False, mixing: bool = False, last: str = "Identity") -> onnx.ModelProto:
    """Conv, Relu (`features`), where `deep` another Conv and Relu, mean, matrix: `scores`.

    Where `mixing`, half the batch's mean is added to each image's scores, and half its own taken.
    """
    node, name = helper.make_node, "features"
    nodes = [
        node("Conv", ["image", "k1"], ["c1"], pads=[1, 1, 1, 1]),
        node("Relu", ["c1"], ["features"]),
    ]
    if deep:
        nodes += [
            node("Conv", ["features", "k2"], ["c2"], pads=[1, 1, 1, 1], strides=[2, 2]),
            node("Softplus", ["c2"], ["deep"]),
        ]
        name = "deep"
    nodes += [
        node("GlobalAveragePool", [name], ["g"]),
        node("Flatten", ["g"], ["f"]),
        node("MatMul", ["f", "w"], ["m"]),
    ]
    if mixing:
        nodes += [
            node("ReduceMean", ["m"], ["mean"], axes=[0], keepdims=1),
            node("Sub", ["mean", "m"], ["off"]),
            node("Mul", ["off", "much"], ["more"]),
            node("Add", ["m", "more"], ["mixed"]),
        ]
    nodes.append(node(last, ["mixed" if mixing else "m"], ["scores"]))
    constants = {**network_weights(), "much": np.array(50, np.float32)}
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", CLASSES])],
        [numpy_helper.from_array(value, key) for key, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def torch_network(image: np.ndarray) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """First features, deep features and scores of a picture uint8 [H, W, 3]."""
    w = {name: torch.from_numpy(value).double() for name, value in network_weights().items()}
    x = torch.from_numpy(image).double().permute(2, 0, 1)[None] / 255
    features = F.relu(F.conv2d(x, w["k1"], padding=1)).requires_grad_()
    deep = F.softplus(F.conv2d(features, w["k2"], padding=1, stride=2))
    return features, deep, deep.mean((2, 3)) @ w["w"]


@pytest.fixture(name="network_weights")
def _network_weights() -> dict[str, np.ndarray]:
    return network_weights()


@pytest.fixture(name="torch_network")
def _torch_network() -> Callable[[np.ndarray], tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    return torch_network


@pytest.fixture
def picture() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)


@pytest.fixture
def explainer() -> Callable[..., ibisa.Explainer]:
    """`explainer(deep=True, ...)` opens such a network."""

    def make(**options: Any) -> ibisa.Explainer:
        data = network(**options).SerializeToString()
        return ibisa.Explainer(data, preprocessing="unit", threads=1, providers=["cpu"])

    return make

"""A small model whose every answer is known by construction, and pictures for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

SIDE, CLASSES = 12, 3


def _templates() -> np.ndarray:
    """What each class looks for: its own colour at its own place, float32 [3 * H * W, K]."""
    rows, columns = np.mgrid[:SIDE, :SIDE] / SIDE
    found = np.zeros((CLASSES, 3, SIDE, SIDE), np.float32)
    for index, (top, left) in enumerate([(0.25, 0.3), (0.7, 0.25), (0.6, 0.75)]):
        bump = np.exp(-((rows - top) ** 2 + (columns - left) ** 2) / (2 * 0.12**2))
        found[index, index] = 8 * bump / bump.sum()
    return found.reshape(CLASSES, -1).T


def _onnx(last: str = "Identity") -> onnx.ModelProto:
    """Float images [N, 3, H, W] in 0..1 to `scores` [N, K], by `last`."""
    weights = [
        numpy_helper.from_array(np.ascontiguousarray(_templates()), "templates"),
        numpy_helper.from_array(np.full(CLASSES, -4, np.float32), "bias"),
    ]
    nodes = [
        helper.make_node("Flatten", ["image"], ["flat"]),
        helper.make_node("Gemm", ["flat", "templates", "bias"], ["logits"]),
        helper.make_node(last, ["logits"], ["scores"], name="end"),
    ]
    graph = helper.make_graph(
        nodes,
        "planted",
        [helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, ["n", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("scores", onnx.TensorProto.FLOAT, ["n", CLASSES])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture(autouse=True)
def _one_thread():
    """The order of sums depends on the number of threads, and small work is slower on several."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def planted_onnx() -> Callable[..., onnx.ModelProto]:
    return _onnx


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    """The model as a file."""
    path = tmp_path / "planted.onnx"
    onnx.save(_onnx(), path)
    return path


@pytest.fixture(scope="session")
def pictures() -> list[np.ndarray]:
    """Pictures of soft colours, uint8 [H, W, 3]."""
    rng = np.random.default_rng(3)
    fields = rng.normal(size=(24, 5, 5, 3)).astype(np.float32)
    large = [cv2.resize(each, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC) for each in fields]
    return [np.clip(127 + 70 * each, 0, 255).astype(np.uint8) for each in large]


@pytest.fixture
def folder(pictures: list[np.ndarray], tmp_path: Path) -> Path:
    """The pictures as files."""
    path = tmp_path / "pictures"
    path.mkdir()
    for number, picture in enumerate(pictures):
        cv2.imwrite(str(path / f"{number:02}.png"), picture)
    return path


@pytest.fixture(scope="session")
def bytes_onnx() -> onnx.ModelProto:
    """Bytes, channels last, through a quantised convolution to a quantised softmax, batch 1."""
    rng = np.random.default_rng(4)
    arrays = {
        "w": rng.integers(-127, 128, (5, 3, 3, 3)).astype(np.int8),
        "ws": rng.uniform(0.001, 0.004, 5).astype(np.float32),
        "wz": np.zeros(5, np.int8),
        "xs": np.float32(1 / 255),
        "xz": np.uint8(0),
        "ps": np.float32(1 / 256),
    }
    nodes = [
        helper.make_node("Transpose", ["image"], ["t"], perm=[0, 3, 1, 2]),
        helper.make_node("DequantizeLinear", ["t", "xs", "xz"], ["x"]),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wr"], axis=0),
        helper.make_node("Conv", ["x", "wr"], ["c"], strides=[2, 2]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["g"]),
        helper.make_node("Flatten", ["g"], ["f"]),
        helper.make_node("Softmax", ["f"], ["p"]),
        helper.make_node("QuantizeLinear", ["p", "ps", "xz"], ["scores"]),
    ]
    byte = onnx.TensorProto.UINT8
    graph = helper.make_graph(
        nodes,
        "bytes",
        [helper.make_tensor_value_info("image", byte, [1, 12, 12, 3])],
        [helper.make_tensor_value_info("scores", byte, [1, 5])],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)

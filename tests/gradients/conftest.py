"""Small convolutional models with random weights, as ONNX and as PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import helper, numpy_helper

from ibisa_onnx.models.onnx_session import DeployedModel

SIDE, CLASSES = 9, 5


class Network(torch.nn.Module):
    """Convolution, softplus, mean, and a matrix; smooth, so that differences are exact."""

    def __init__(self, weights: dict[str, np.ndarray]) -> None:
        super().__init__()
        for name, value in weights.items():
            self.register_parameter(name, torch.nn.Parameter(torch.from_numpy(value)))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        hidden = F.softplus(F.conv2d(images, self.kernel, self.bias, padding=1))
        return F.avg_pool2d(hidden, 3).flatten(1) @ self.matrix


def _weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    shapes = {"kernel": (4, 3, 3, 3), "bias": (4,), "matrix": (36, CLASSES)}
    return {k: rng.normal(0, 0.5, shape).astype(np.float32) for k, shape in shapes.items()}


def _onnx(
    *,
    batch: int | str = "n",
    nhwc: bool = False,
    half: bool = False,
    extra: bool = False,
    listed: bool = False,
    last: tuple[str, ...] = (),
) -> onnx.ModelProto:
    """The network as ONNX: `scores` [N, K].

    With a channels-last input, in half precision, with an input `gain` [1] that the scores are
    multiplied by, with its initializers listed as inputs, and with more operators at its end.
    """
    dtype = np.float16 if half else np.float32
    elem = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    side = [batch, SIDE, SIDE, 3] if nhwc else [batch, 3, SIDE, SIDE]
    constants = [numpy_helper.from_array(v.astype(dtype), k) for k, v in _weights().items()]
    inputs = [helper.make_tensor_value_info("image", elem, side)]
    nodes, name = [], "image"
    if nhwc:
        nodes.append(helper.make_node("Transpose", [name], ["planes"], perm=[0, 3, 1, 2]))
        name = "planes"
    nodes += [
        helper.make_node("Conv", [name, "kernel", "bias"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Softplus", ["c"], ["s"]),
        helper.make_node("AveragePool", ["s"], ["p"], kernel_shape=[3, 3], strides=[3, 3]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("MatMul", ["f", "matrix"], ["m"]),
    ]
    name = "m"
    if extra:
        inputs.append(helper.make_tensor_value_info("gain", elem, [1]))
        nodes.append(helper.make_node("Mul", [name, "gain"], ["g"]))
        name = "g"
    for place, operator in enumerate(last):
        nodes.append(helper.make_node(operator, [name], [f"last{place}"]))
        name = f"last{place}"
    nodes.append(helper.make_node("Identity", [name], ["scores"]))
    if listed:
        inputs += [helper.make_tensor_value_info(c.name, elem, c.dims) for c in constants]
    output = helper.make_tensor_value_info("scores", elem, [batch, CLASSES])
    graph = helper.make_graph(nodes, "small", inputs, [output], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture(scope="session")
def small_onnx() -> Callable[..., onnx.ModelProto]:
    """`small_onnx(batch=3, nhwc=True, ...)`: the network as an ONNX model."""
    return _onnx


@pytest.fixture(scope="session")
def network() -> torch.nn.Module:
    """The same network in PyTorch."""
    return Network(_weights()).eval()


@pytest.fixture
def deployed() -> Callable[..., DeployedModel]:
    """Open such a model as it would be deployed."""

    def make(extra_inputs: dict[str, Any] | None = None, **options: Any) -> DeployedModel:
        data = _onnx(extra=extra_inputs is not None, **options).SerializeToString()
        return DeployedModel.open(
            data, providers=["cpu"], threads=1, extra_inputs=extra_inputs or {}
        )

    return make


@pytest.fixture
def images() -> np.ndarray:
    """Two images, float32 [2, 3, H, W]."""
    return np.random.default_rng(6).normal(size=(2, 3, SIDE, SIDE)).astype(np.float32)

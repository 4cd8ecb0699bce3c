"""Generated models whose answer is known: the mean of each channel over the picture."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

ModelMaker = Callable[..., onnx.ModelProto]


def _mean_model(
    shape: tuple[Any, ...] = ("n", 3, 5, 6),
    dtype: int = TensorProto.FLOAT,
    layout: str = "NCHW",
    metadata: dict[str, str] | None = None,
    opset: int = 13,
) -> onnx.ModelProto:
    """y [N, C] = mean of the image over rows and columns, in float32."""
    axes = [2, 3] if layout == "NCHW" else [1, 2]
    channels = shape[1] if layout == "NCHW" else shape[3]
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["image"], ["f"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMean", ["f"], ["y"], axes=axes, keepdims=0),
        ],
        "mean",
        [helper.make_tensor_value_info("image", dtype, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [shape[0], channels])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    helper.set_model_props(model, metadata or {})
    return model


def _linear_model(
    side: int = 4, classes: int = 5, batch: Any = "n", rows: int = 0
) -> onnx.ModelProto:
    """y [N, classes] = image flattened [N or `rows`, -1] times a known matrix."""
    size = 3 * side * side
    weights = np.arange(size * classes, dtype=np.float32).reshape(size, classes) / size
    graph = helper.make_graph(
        [
            helper.make_node("Reshape", ["image", "flat"], ["v"]),
            helper.make_node("MatMul", ["v", "w"], ["y"]),
        ],
        "linear",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 3, side, side])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, classes])],
        [
            helper.make_tensor("flat", TensorProto.INT64, [2], [rows, size]),
            onnx.numpy_helper.from_array(weights, "w"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


@pytest.fixture(scope="session")
def mean_model() -> ModelMaker:
    return _mean_model


@pytest.fixture(scope="session")
def linear_model() -> ModelMaker:
    return _linear_model


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)

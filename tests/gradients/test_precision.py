"""How finely a model computes is read off its graph."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from ibisa_onnx.gradients.precision import rounds_coarsely
from ibisa_onnx.models.onnx_session import DeployedModel

Graph = Callable[[], onnx.ModelProto]


def model(nodes: list[onnx.NodeProto], output: int, **constants: np.ndarray) -> onnx.ModelProto:
    """From a float32 image x to y [N, 3]."""
    graph = helper.make_graph(
        [helper.make_node("ReduceMean", ["x"], ["mean"], axes=[2, 3], keepdims=0), *nodes],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("y", output, ["n", 3])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opset = helper.make_opsetid("", 17)
    return helper.make_model(graph, opset_imports=[opset], ir_version=8)


def single() -> onnx.ModelProto:
    return model([helper.make_node("Softmax", ["mean"], ["y"])], TensorProto.FLOAT)


def half_inside() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Cast", ["mean"], ["h"], to=TensorProto.FLOAT16),
        helper.make_node("Softmax", ["h"], ["s"]),
        helper.make_node("Cast", ["s"], ["y"], to=TensorProto.FLOAT),
    ]
    return model(nodes, TensorProto.FLOAT)


def rounded_inside() -> onnx.ModelProto:
    nodes = [
        helper.make_node("QuantizeLinear", ["mean", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
    ]
    return model(nodes, TensorProto.FLOAT, scale=np.float32([0.1])[0], zero=np.uint8(3))


def integers() -> onnx.ModelProto:
    return model(
        [helper.make_node("Cast", ["mean"], ["y"], to=TensorProto.INT32)], TensorProto.INT32
    )


@pytest.mark.parametrize(
    ("graph", "coarse"),
    [(single, False), (half_inside, True), (rounded_inside, True), (integers, True)],
)
def test_what_rounds(graph: Graph, coarse: bool) -> None:
    opened = DeployedModel.open(graph().SerializeToString(), providers=["cpu"])
    assert rounds_coarsely(opened, "y") is coarse


@pytest.mark.real
@pytest.mark.parametrize(("name", "coarse"), [("mobilenetv2", False), ("mobilenetv2_int8", True)])
def test_real_files_of_half_and_single_precision(assets: Path, name: str, coarse: bool) -> None:
    opened = DeployedModel.open(assets / "models" / f"{name}.onnx", providers=["cpu"])
    assert rounds_coarsely(opened, opened.signature.outputs[0].name) is coarse

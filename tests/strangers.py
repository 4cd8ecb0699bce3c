"""Small models as strangers might write them."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
from onnx import TensorProto, helper

from ibisa_onnx.models.onnx_session import DeployedModel

OPSET = helper.make_opsetid("", 17)
OURS = helper.make_opsetid("ours", 1)


def model(
    *nodes: onnx.NodeProto,
    functions: Sequence[onnx.FunctionProto] = (),
    weights: Sequence[TensorProto] = (),
    side: int = 8,
    outputs: int = 3,
) -> onnx.ModelProto:
    """What the nodes make of x is z; the answer is its means."""
    graph = helper.make_graph(
        [*nodes, helper.make_node("ReduceMean", ["z"], ["y"], axes=[2, 3], keepdims=0)],
        "means",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, side, side])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", outputs])],
        list(weights),
    )
    return helper.make_model(
        graph, functions=list(functions), opset_imports=[OPSET, OURS], ir_version=9
    )


def relu() -> onnx.ModelProto:
    return model(helper.make_node("Relu", ["x"], ["z"], name="/a/node"))


def call(name: str, x: str, y: str) -> onnx.NodeProto:
    return helper.make_node(name, [x], [y], domain="ours")


def function(name: str, *nodes: onnx.NodeProto) -> onnx.FunctionProto:
    return helper.make_function("ours", name, ["a"], ["c"], list(nodes), [OPSET, OURS])


def doubling(times: int) -> onnx.ModelProto:
    """A function of one node, and others that call the one before twice."""
    made = [function("f0", helper.make_node("Relu", ["a"], ["c"]))]
    for n in range(1, times + 1):
        made.append(function(f"f{n}", call(f"f{n - 1}", "a", "b"), call(f"f{n - 1}", "b", "c")))
    return model(call(f"f{times}", "x", "z"), functions=made)


def opened(proto: onnx.ModelProto | bytes, **options: object) -> DeployedModel:
    data = proto if isinstance(proto, bytes) else proto.SerializeToString()
    return DeployedModel.open(data, providers=["cpu"], threads=1, **options)  # type: ignore[arg-type]

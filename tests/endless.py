"""Models that do not come back: a Loop of 2^40 turns, always or for some pictures.

Apart from that they are linear classifiers, whose gradient does not lead through the loop.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIDE = 16
_TURNS = 1 << 40


def endless_model(
    *,
    above: float = -math.inf,
    dimmed: bool = False,
    opaque: bool = False,
) -> onnx.ModelProto:
    """Return scores [N, 4] of images [N, 3, 16, 16].

    Parameters
    ----------
    above
        The mean of the images from which on it does not come back.
    dimmed
        In place of that: it does not where no value is 1.
    opaque
        What it is can be told by a run alone: the scores come out of a loop of a single turn.
    """
    reduce, compare, limit = (
        ("ReduceMax", "Less", 1.0) if dimmed else ("ReduceMean", "Greater", above)
    )
    nodes = [
        helper.make_node(reduce, ["image"], ["seen"], keepdims=0),
        helper.make_node(compare, ["seen", "limit"], ["fires"]),
        helper.make_node("Where", ["fires", "many", "once"], ["turns"]),
        helper.make_node(
            "Loop", ["turns", "", "nothing"], ["counted"], body=_turn(TensorProto.INT64, "Neg")
        ),
        helper.make_node("Reshape", ["counted", "single"], ["one"]),  # so that its rank is known
        helper.make_node("Cast", ["one"], ["zero"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["image"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["linear"]),
        helper.make_node("Add", ["linear", "zero"], ["plain" if opaque else "scores"]),
    ]
    if opaque:
        body = _turn(TensorProto.FLOAT, "Identity")
        nodes.append(helper.make_node("Loop", ["once", "", "plain"], ["scores"], body=body))
    weights = np.random.default_rng(0).normal(size=(3 * SIDE * SIDE, 4)).astype(np.float32)
    constants = [
        helper.make_tensor("limit", TensorProto.FLOAT, [], [limit]),
        helper.make_tensor("many", TensorProto.INT64, [], [_TURNS]),
        helper.make_tensor("once", TensorProto.INT64, [], [1]),
        helper.make_tensor("nothing", TensorProto.INT64, [1], [0]),
        helper.make_tensor("single", TensorProto.INT64, [1], [1]),
        numpy_helper.from_array(weights / SIDE, "weights"),
    ]
    graph = helper.make_graph(
        nodes,
        "endless",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", "K" if opaque else 4])],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _turn(elem: int, operator: str) -> onnx.GraphProto:
    """Return what a turn does: one thing, on and on."""
    go, on = (helper.make_tensor_value_info(name, TensorProto.BOOL, []) for name in ("go", "on"))
    v, w = (helper.make_tensor_value_info(name, elem, None) for name in "vw")
    return helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node(operator, ["v"], ["w"])],
        "turn",
        [helper.make_tensor_value_info("turn", TensorProto.INT64, []), go, v],
        [on, w],
    )


def expanding_model(levels: int) -> onnx.ModelProto:
    """Return a model whose functions call each other twice: 2^levels nodes once written out."""
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    functions = []
    for level in range(levels):
        last = level == levels - 1
        inner, domain = ("Neg", "") if last else (f"f{level + 1}", "own")
        twice = [
            helper.make_node(inner, [each], [made], domain=domain)
            for each, made in (("a", "b"), ("b", "c"))
        ]
        functions.append(helper.make_function("own", f"f{level}", ["a"], ["c"], twice, opsets))
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", 3, 4, 4]) for n in "xy")
    node = helper.make_node("f0", ["x"], ["y"], domain="own")
    graph = helper.make_graph([node], "expanding", [x], [y])
    made: Any = helper.make_model(graph, functions=functions, opset_imports=opsets, ir_version=8)
    return made

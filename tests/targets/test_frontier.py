"""Before the selection: planted graphs whose dense tensors are known."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from ibisa_onnx.targets.frontier import before_selection, selects


def graph(*nodes, outputs=("out",), constants=None):
    return helper.make_graph(
        list(nodes),
        "graph",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in (constants or {}).items()],
    )


def node(kind, inputs, outputs, **attributes):
    return helper.make_node(kind, inputs.split(), outputs.split(), **attributes)


HEAD = node("Conv", "image weights", "features"), node("Sigmoid", "features", "dense")


def test_a_graph_that_selects_nothing_has_none():
    found = graph(*HEAD, node("Relu", "dense", "out"))
    assert not selects(found)
    assert before_selection(found, "image") == ()


@pytest.mark.parametrize("between", ["Transpose", "Reshape", "Gather", "ReduceMax", "Cast"])
def test_what_only_picks_or_reorders_is_gone_back_through(between):
    second = {"Reshape": " shape", "Gather": " index"}.get(between, "")
    picked = node(between, f"dense{second}", "picked")
    found = graph(*HEAD, picked, node("TopK", "picked k", "out places"))
    assert selects(found)
    assert before_selection(found, "image") == ("dense",)


def test_boxes_and_scores_are_both_found():
    boxes = node("Mul", "features anchors", "boxes")
    chosen = node("NonMaxSuppression", "boxes scores_t", "kept")
    turned = node("Transpose", "dense", "scores_t")
    rows = node("Gather", "boxes kept", "out")
    found = graph(*HEAD, boxes, turned, chosen, rows)
    assert before_selection(found, "image") == ("dense", "boxes")


def test_an_output_that_was_not_selected_counts_too():
    prototypes = node("Relu", "features", "prototypes")
    found = graph(*HEAD, prototypes, node("ArgMax", "dense", "out"), outputs=("out", "prototypes"))
    assert before_selection(found, "image") == ("dense", "prototypes")


def test_a_selection_inside_a_branch_is_seen():
    inner = helper.make_graph([node("NonZero", "dense", "inside")], "branch", [], [])
    branch = helper.make_node("If", ["condition"], ["out"], then_branch=inner, else_branch=inner)
    found = graph(*HEAD, branch)
    assert selects(found)
    assert before_selection(found, "image") == ("dense",)


def test_what_does_not_depend_on_the_image_is_left_out():
    found = graph(
        *HEAD,
        node("Relu", "constant", "anchors"),
        node("Concat", "dense anchors", "joined", axis=1),
        node("TopK", "joined k", "out places"),
    )
    assert before_selection(found, "image") == ("joined",)

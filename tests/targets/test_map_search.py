"""Which models are segmenters: every ending and layout, and what only looks like one."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import ibisa_onnx as ibisa
from ibisa_onnx.models.onnx_session import DeployedModel
from ibisa_onnx.targets.class_scores import Activation
from ibisa_onnx.targets.facts import ModelFacts
from ibisa_onnx.targets.map_search import FoundMaps, find_maps

SIDE = 32
Ending = list[tuple[str, dict[str, Any]]]


def model(
    classes: int,
    ending: Ending = (),  # type: ignore[assignment]
    name: str = "output",
    *,
    stride: int = 1,
    dtype: int = TensorProto.FLOAT,
    metadata: dict[str, str] | None = None,
    beside: str = "",
    opset: int = 13,
    open_sides: bool = False,
) -> onnx.ModelProto:
    """Scores of a convolution [n, classes, h, w], and what is made of them by the ending."""
    kernel = np.random.default_rng(3).normal(0, 3, (classes, 3, stride, stride))
    sides = [stride, stride]
    nodes = [helper.make_node("Conv", ["image", "kernel"], ["t0"], strides=sides)]
    last = "t0"
    for number, (operator, attributes) in enumerate(ending, 1):
        inputs = [last] if operator != "Resize" else [last, "", "scales"]
        nodes.append(helper.make_node(operator, inputs, [f"t{number}"], **attributes))
        last = f"t{number}"
    nodes.append(helper.make_node("Identity", [last], [name]))
    outputs = [helper.make_tensor_value_info(name, dtype, None)]
    if beside:
        nodes.append(helper.make_node("GlobalAveragePool", ["image"], ["pooled"]))
        nodes.append(helper.make_node("Flatten", ["pooled"], [beside]))
        outputs.append(helper.make_tensor_value_info(beside, TensorProto.FLOAT, None))
    size = ["h", "w"] if open_sides else [SIDE, SIDE]
    graph = helper.make_graph(
        nodes,
        "model",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, *size])],
        outputs,
        [
            numpy_helper.from_array(kernel.astype(np.float32), "kernel"),
            numpy_helper.from_array(np.array([1, 1, stride, stride], np.float32), "scales"),
        ],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    helper.set_model_props(made, metadata or {})
    return made


def found_in(made: onnx.ModelProto, *, said: bool = False) -> FoundMaps | None:
    spec = ibisa.Preprocessing(
        (SIDE, SIDE), resize="stretch", mean=(0.5,) * 3, std=(0.25,) * 3, scale=1 / 255
    )
    opened = DeployedModel.open(made.SerializeToString(), providers=["cpu"], threads=1)
    found = find_maps(ModelFacts(opened, spec), said=said)
    return None if found is None else found[0]


SOFTMAX: Ending = [("Softmax", {"axis": 1})]
TO_NHWC: Ending = [("Transpose", {"perm": [0, 2, 3, 1]})]
ENDINGS: dict[str, tuple[Ending, str, bool, Activation, int]] = {
    "logits": ([], "output", False, Activation.SOFTMAX, TensorProto.FLOAT),
    "softmax": (SOFTMAX, "t0", False, Activation.SOFTMAX, TensorProto.FLOAT),
    "log-softmax": (
        [("LogSoftmax", {"axis": 1})], "output", False, Activation.LOG, TensorProto.FLOAT
    ),
    "sigmoid": ([("Sigmoid", {})], "t0", False, Activation.SIGMOID_LOGIT, TensorProto.FLOAT),
    "softmax, enlarged": (
        [*SOFTMAX, ("Resize", {"mode": "linear"})],
        "output", False, Activation.PROBABILITY, TensorProto.FLOAT,
    ),
    "NHWC": (TO_NHWC, "output", True, Activation.SOFTMAX, TensorProto.FLOAT),
    "NHWC softmax": (
        [*TO_NHWC, ("Softmax", {"axis": 3})], "t1", True, Activation.SOFTMAX, TensorProto.FLOAT
    ),
    "softmax, then NHWC": (
        [*SOFTMAX, *TO_NHWC], "output", True, Activation.PROBABILITY, TensorProto.FLOAT
    ),
    "ArgMax": (
        [("ArgMax", {"axis": 1, "keepdims": 0})], "t0", False, Activation.SOFTMAX,
        TensorProto.INT64,
    ),
    "ArgMax, one channel": (
        [("ArgMax", {"axis": -3, "keepdims": 1})], "t0", False, Activation.SOFTMAX,
        TensorProto.INT64,
    ),
    "ArgMax, NHWC": (
        [*TO_NHWC, ("ArgMax", {"axis": -1, "keepdims": 0})], "t1", True, Activation.SOFTMAX,
        TensorProto.INT64,
    ),
    "ArgMax as bytes": (
        [("ArgMax", {"axis": 1, "keepdims": 0}), ("Cast", {"to": TensorProto.UINT8})],
        "t0", False, Activation.SOFTMAX, TensorProto.UINT8,
    ),
    "ArgMax of a softmax": (
        [*SOFTMAX, ("ArgMax", {"axis": 1})], "t0", False, Activation.SOFTMAX, TensorProto.INT64
    ),
}  # fmt: skip


@pytest.mark.parametrize("open_sides", [False, True])
@pytest.mark.parametrize("case", ENDINGS)
def test_scores_are_found_whatever_the_graph_ends_in(case: str, open_sides: bool):
    ending, tensor, last, activation, dtype = ENDINGS[case]
    found = found_in(model(5, ending, dtype=dtype, open_sides=open_sides))
    assert found is not None
    assert (found.maps.name, found.maps.last) == (tensor, last)
    assert found.maps.activation is activation
    assert found.maps.classes == 5
    assert found.grid == (SIDE, SIDE)


@pytest.mark.parametrize(("stride", "ending"), [(1, []), (4, []), (4, SOFTMAX), (16, SOFTMAX)])
def test_grids_may_be_coarser_than_the_input(stride: int, ending: Ending):
    found = found_in(model(7, ending, stride=stride))
    assert found is not None
    assert found.grid == (SIDE // stride, SIDE // stride)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (
            model(5, [("ArgMax", {"axis": 1})], dtype=TensorProto.INT64),
            "output output is its ArgMax",
        ),
        (model(5, SOFTMAX), "it ends in a softmax"),
        (model(5, [("Sigmoid", {})]), "it ends in a sigmoid"),
        (model(5, name="mask_logits"), "it is named mask_logits; its values are logits"),
        (
            model(5, metadata={"task": "semantic"}),
            "its task, according to the metadata, is semantic",
        ),
        (model(2, metadata={"names": "['a', 'b']"}), "the model has labels for 2 classes"),
        (model(5, [("Resize", {"mode": "linear"})], stride=4), "resized to the input size"),
    ],
)
def test_it_says_how_it_is_known(made: onnx.ModelProto, said: str):
    found = found_in(made)
    assert found is not None
    assert said in found.reason
    assert not found.guess


def test_logits_that_nothing_names_are_a_guess():
    found = found_in(model(5))
    assert found is not None
    assert "is assumed to hold" in found.guess
    assert "pass kind= if it holds something else" in found.guess


@pytest.mark.parametrize(
    "made",
    [
        model(1, name="predicted_depth"),
        model(1, metadata={"task": "depth"}),
        model(1, [("Exp", {})]),  # of values above 0 alone
        model(17, name="heatmaps"),
        model(17, metadata={"task": "pose"}),
        model(3),  # a picture
        model(3, [("Sigmoid", {})]),
        model(1, [("Sigmoid", {})], name="restored_image"),
        model(64, [("Relu", {})]),
        model(64, name="features"),
        model(400),
        model(5, stride=16),
        model(5, SOFTMAX, stride=32),  # a class for the picture
        model(5, beside="classes"),  # a guess has to be of all outputs
        model(5, [("ArgMax", {"axis": 2})], dtype=TensorProto.INT64),
        model(4, [("Flatten", {})]),
    ],
    ids=lambda made: f"{made.graph.node[-2].op_type} {made.graph.output[0].name}",
)
def test_what_only_looks_like_maps_of_classes_is_left_to_others(made: onnx.ModelProto):
    assert found_in(made) is None


@pytest.mark.parametrize(
    "made", [model(3), model(5, beside="classes"), model(17, metadata={"task": "pose"}), model(400)]
)
def test_who_says_that_it_is_a_segmenter_is_believed(made: onnx.ModelProto):
    found = found_in(made, said=True)
    assert found is not None
    assert found.maps.name == "output"
    assert not found.guess
    assert found_in(model(4, [("Flatten", {})]), said=True) is None


def test_maps_beside_other_outputs_are_found_where_they_are_sure():
    assert found_in(model(5, SOFTMAX, beside="classes")) is not None


def test_one_channel_is_a_logit_or_a_probability():
    heat, logit = found_in(model(1, [("Sigmoid", {})])), found_in(model(1, name="mask"))
    assert heat is not None
    assert logit is not None
    assert heat.maps.activation is logit.maps.activation is Activation.SIGMOID_LOGIT
    assert heat.reason.startswith("output [1, 1, 32, 32] contains one score at each position")


@pytest.mark.parametrize("opset", [7, 11, 13])
def test_a_softmax_along_another_axis_is_not_taken_for_one_of_classes(opset: int):
    """Up to opset 12 its axis 1 means all axes from the first on."""
    found = found_in(model(5, SOFTMAX, opset=opset, metadata={"task": "semantic"}))
    assert found is not None
    if opset < 13:
        assert found.maps.name == "output"
        assert found.maps.activation is Activation.SIGMOID
    else:
        assert found.maps.name == "t0"


def test_integers_are_read_before_they_are_rounded():
    nodes: Ending = [("QuantizeLinear", {})]
    made = model(5, nodes, dtype=TensorProto.UINT8, name="scores_mask")
    made.graph.node[1].input.extend(["scale", "zero"])
    made.graph.initializer.extend(
        [
            numpy_helper.from_array(np.float32(0.1), "scale"),
            numpy_helper.from_array(np.uint8(128), "zero"),
        ]
    )
    found = found_in(made)
    assert found is not None
    assert found.maps.name == "t0"

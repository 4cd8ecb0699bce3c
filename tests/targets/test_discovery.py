"""What kind of model it is: told from files of every kind, corrected, and never paid for twice."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import ibisa_onnx as ibisa
from ibisa_onnx.commands.model_options import KINDS as OFFERED
from ibisa_onnx.targets.classification import NAME, UNKNOWN
from ibisa_onnx.targets.discovery import KINDS

SIDE = 32


def model(*nodes, metadata=None, batch="n", **outputs):
    """A file whose nodes begin at `means` [n, 3, 4, 4] and `flat` [n, 48] of an image."""
    elems = {"labels": TensorProto.INT64}
    begin = [
        helper.make_node("AveragePool", ["image"], ["means"], kernel_shape=[8, 8], strides=[8, 8]),
        helper.make_node("Flatten", ["means"], ["flat"]),
    ]
    graph = helper.make_graph(
        begin + [helper.make_node(k, i.split(), o.split(), **a) for k, i, o, a in nodes],
        "kinds",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 3, SIDE, SIDE])],
        [
            helper.make_tensor_value_info(name, elems.get(name, TensorProto.FLOAT), shape)
            for name, shape in outputs.items()
        ],
        [
            numpy_helper.from_array(np.eye(48, 4, dtype=np.float32), "weights"),
            numpy_helper.from_array(np.array([2]), "third"),
        ],
    )
    opsets = [helper.make_opsetid("", 13)]
    made = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    helper.set_model_props(made, metadata or {})
    return made.SerializeToString()


def kind_of(data, **options):
    return ibisa.Explainer(data, preprocessing="unit", threads=1, **options).kind


LOGITS = ("MatMul", "flat weights", "scores", {})
CASES = {
    "logits": (model(LOGITS, scores=["n", 4]), "classifier"),
    "a softmax": (
        model(LOGITS, ("Softmax", "scores", "p", {"axis": 1}), p=["n", 4]),
        "classifier",
    ),
    "a box beside a softmax": (
        model(
            ("MatMul", "flat weights", "box", {}),
            ("Softmax", "box", "prob", {"axis": 1}),
            box=["n", 4],
            prob=["n", 4],
        ),
        "classifier",
    ),
    "a unit vector": (
        model(
            ("ReduceL2", "flat", "length", {"axes": [1]}),
            ("Div", "flat length", "vector", {}),
            vector=["n", 48],
        ),
        "embedder",
    ),
    "an age": (
        model(("ReduceMean", "flat", "age", {"axes": [1], "keepdims": 1}), age=["n", 1]),
        "regression",
    ),
    "maps of scores": (
        model(("Softmax", "means", "maps", {"axis": 1}), maps=["n", 3, 4, 4]),
        "segmenter",
    ),
    "a map of depth": (
        model(
            ("ReduceMean", "means", "depth", {"axes": [1], "keepdims": 1}),
            depth=["n", 1, 4, 4],
        ),
        "depth",
    ),
    "heat maps": (
        model(("Identity", "means", "heatmaps", {}), heatmaps=["n", 3, 4, 4]),
        "keypoints",
    ),
    "steps along a line": (
        model(
            ("ReduceMean", "means", "line", {"axes": [2], "keepdims": 1}),
            ("Squeeze", "line third", "row", {}),
            ("Transpose", "row", "steps", {"perm": [0, 2, 1]}),
            ("Softmax", "steps", "characters", {"axis": 2}),
            characters=["n", 4, 3],
        ),
        "text recogniser",
    ),
    "a picture": (
        model(("Tanh", "means", "restored", {}), restored=["n", 3, 4, 4]),
        UNKNOWN,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_each_file_is(case):
    data, expected = CASES[case]
    kind = kind_of(data)
    assert kind.name == expected
    assert kind.reason


def test_the_command_line_offers_the_kinds_that_there_are():
    assert set(OFFERED) == {*KINDS, NAME}


def test_a_classifier_is_not_run_to_tell_what_it_is():
    """Its outputs say it; a run on noise would cost whoever opens it."""
    explainer = ibisa.Explainer(CASES["logits"][0], preprocessing="unit", threads=1)
    assert explainer.kind.name == "classifier"
    assert explainer.model.passes.forward == 0


def test_a_function_is_a_classifier_and_is_not_asked():
    asked = []

    def function(images):
        asked.append(len(images))
        return images.mean((2, 3))

    explainer = ibisa.Explainer(function, ibisa.InputSpec((None, 3, 8, 8)))
    assert explainer.kind.name == "classifier"
    assert asked == []


def test_a_kind_may_be_told():
    data, _ = CASES["logits"]
    kind = kind_of(data, kind="regression")
    assert kind.name == "regression"


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("robot", "kind is 'robot'; choose from: detector, "),
        ("detector", "kind is 'detector', but no output of this model fits that kind"),
    ],
)
def test_a_kind_that_it_cannot_be_is_refused(kind, message):
    with pytest.raises(ibisa.OptionError, match=message):
        kind_of(CASES["logits"][0], kind=kind)


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("squeezenet", "classifier"),
        ("mobilenetv2", "classifier"),
        ("mobilenetv2_int8", "classifier"),
        ("deeplabv3_int8", "segmenter"),
        ("face_rfb320", "detector"),
    ],
)
def test_real_files(assets, name, expected):
    explainer = ibisa.Explainer(assets / "models" / f"{name}.onnx")
    assert explainer.kind.name == expected

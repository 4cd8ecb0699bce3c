"""`inspect` says beforehand what `run` rejects, and why: the model, or one image."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from endless import endless_model
from onnx import TensorProto, helper, numpy_helper

SIDE, CLASSES = 16, 5
FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
node, tensor = helper.make_node, helper.make_tensor_value_info
FAST = ("--preset", "fast", "--preprocess", "unit", "--json", "-q")


def model(
    nodes: list[onnx.NodeProto],
    *outputs: tuple[str, int, list[Any]],
    batch: Any = "n",
    inputs: tuple[tuple[str, list[Any]], ...] = (),
    **constants: Any,
) -> onnx.ModelProto:
    """`r` [n, K, h, w] is a ReLU of channel mixtures, `l` [n, K] its mean; `nodes` go on."""
    mix = np.random.default_rng(0).standard_normal((CLASSES, 3, 1, 1)).astype(np.float32)
    constants |= {"mix": mix, "rows": np.array([-1, CLASSES])}
    body = [
        node("Conv", ["image", "mix"], ["c"]),
        node("Relu", ["c"], ["r"]),
        node("GlobalAveragePool", ["r"], ["g"]),
        node("Reshape", ["g", "rows"], ["l"]),
    ]
    image = tensor("image", FLOAT, [batch, 3, SIDE, SIDE])
    graph = helper.make_graph(
        [*body, *nodes],
        "small",
        [image, *(tensor(name, FLOAT, shape) for name, shape in inputs)],
        [tensor(*each) for each in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def scores(name: str = "y", of: str = "l") -> list[onnx.NodeProto]:
    return [node("Softmax", [of], [name])]


ACCEPTED: dict[str, Callable[[], onnx.ModelProto]] = {
    "classifier": lambda: model(scores(), ("y", FLOAT, ["n", CLASSES])),
    "fixed batch": lambda: model(scores(), ("y", FLOAT, [3, CLASSES]), batch=3),
    "operator without a gradient": lambda: model(
        [node("Round", ["l"], ["q"]), *scores(of="q")], ("y", FLOAT, ["n", CLASSES])
    ),
}
REJECTED: dict[str, Callable[[], onnx.ModelProto]] = {
    "embedding": lambda: model(
        [
            node("ReduceL2", ["l"], ["norm"], axes=[1]),
            node("Div", ["l", "norm"], ["y"]),
        ],
        ("y", FLOAT, ["n", CLASSES]),
    ),
    "scores of places": lambda: model([], ("r", FLOAT, ["n", CLASSES, SIDE, SIDE])),
    "class indices": lambda: model(
        [node("ArgMax", ["l"], ["y"], axis=1, keepdims=0)], ("y", INT64, ["n"])
    ),
    "an image": lambda: model(
        [node("Conv", ["image", "three"], ["y"])],
        ("y", FLOAT, ["n", 3, SIDE, SIDE]),
        three=np.eye(3, dtype=np.float32)[..., None, None],
    ),
    "two outputs of scores": lambda: model(
        [node("Identity", ["l"], ["y"]), node("Neg", ["l"], ["z"])],
        ("y", FLOAT, ["n", CLASSES]),
        ("z", FLOAT, ["n", CLASSES]),
    ),
    "rows": lambda: model(
        [node("Reshape", ["r", "shape"], ["y"])],
        ("y", FLOAT, [1, 320, 4]),
        batch=1,
        shape=np.array([1, 320, 4]),
    ),
    "NaN": lambda: model(
        [node("Neg", ["l"], ["m"]), node("Sub", ["m", "one"], ["o"]), node("Sqrt", ["o"], ["y"])],
        ("y", FLOAT, ["n", CLASSES]),
        one=np.float32(1),
    ),
    "no batch of 1": lambda: model(
        [node("Mul", ["l", "ones"], ["y"])],
        ("y", FLOAT, ["m", CLASSES]),
        ones=np.ones((2, CLASSES), np.float32),
    ),
    "two images": lambda: model(
        [node("Identity", ["l"], ["y"])],
        ("y", FLOAT, ["n", CLASSES]),
        inputs=(("other", ["n", 3, SIDE, SIDE]),),
    ),
    "another input": lambda: model(
        [node("Mul", ["l", "t"], ["y"])], ("y", FLOAT, ["n", CLASSES]), inputs=(("t", [1]),)
    ),
}


@pytest.fixture
def saved(tmp_path: Path) -> Callable[[onnx.ModelProto], str]:
    def save(proto: onnx.ModelProto) -> str:
        onnx.save(proto, tmp_path / "m.onnx")
        return "m.onnx"

    return save


@pytest.mark.parametrize("name", ACCEPTED)
def test_inspect_rejects_nothing_that_run_accepts(cli, saved, photo, name):
    path, image = saved(ACCEPTED[name]()), photo("a.png")
    assert cli("run", path, image, *FAST).code == 0
    found = cli("inspect", path, "--preprocess", "unit", "--json", "-q")
    assert json.loads(found.out)["run"] == {"rejected": None, "images": {}}
    assert "rejected" not in cli("inspect", path, image, "--preprocess", "unit").out


@pytest.mark.parametrize("name", REJECTED)
def test_inspect_says_why_run_rejects_a_model(cli, saved, photo, name):
    path, image = saved(REJECTED[name]()), photo("a.png")
    ran = cli("run", path, image, *FAST)
    reason = ran.err.strip().removeprefix("ibisa-onnx: error: ")
    assert ran.code == 1
    for more in ((), (image,)):
        told = cli("inspect", path, *more, "--preprocess", "unit", "--json")
        assert reason in (json.loads(told.out).get("run", {}).get("rejected") or told.err)
        shown = cli("inspect", path, *more, "--preprocess", "unit")
        assert reason in shown.out + shown.err


def test_an_image_that_run_rejects_is_named_with_the_reason(cli, saved, photo):
    nodes = [node("Sub", ["c", "far"], ["d"]), node("Sigmoid", ["d"], ["y"])]
    proto = model(nodes, ("y", FLOAT, ["n", CLASSES, SIDE, SIDE]), far=np.float32(99))
    path, image = saved(proto), photo("a.png")
    ran = cli("run", path, image, *FAST, "--kind", "segmenter")
    told = cli("inspect", path, image, "--preprocess", "unit", "--json", "--kind", "segmenter")
    reason = ran.err.strip().removeprefix("ibisa-onnx: error: ")
    assert (ran.code, told.code) == (1, 0)
    assert json.loads(told.out)["run"] == {"rejected": None, "images": {str(image): reason}}
    assert reason in told.err


def test_what_only_noise_makes_nan_is_not_rejected(cli, tmp_path):
    """The log of what the brightest value lacks to 0.9, which is NaN for noise and not for grey."""
    below = [
        node("ReduceMax", ["image"], ["top"], axes=[1, 2, 3], keepdims=1),
        node("Flatten", ["top"], ["flat"]),
        node("Sub", ["most", "flat"], ["left"]),
        node("Log", ["left"], ["logs"]),
        node("Add", ["l", "logs"], ["z"]),
        *scores(of="z"),
    ]
    proto = model(below, ("y", FLOAT, ["n", CLASSES]), most=np.float32(0.9))
    onnx.save(proto, tmp_path / "m.onnx")
    told = cli("inspect", "m.onnx", "--preprocess", "unit", "--json", "-q")
    assert (told.code, json.loads(told.out)["run"]["rejected"]) == (0, None)


def test_an_endless_model_is_inspected_all_the_same(cli, tmp_path, monkeypatch):
    monkeypatch.setattr("ibisa_onnx.commands.rejection._LONGEST", 0.3)
    onnx.save(endless_model(), tmp_path / "m.onnx")
    told = cli("inspect", "m.onnx", "--preprocess", "unit", "--json", "-q")
    assert (told.code, json.loads(told.out)["run"]["rejected"]) == (0, None)

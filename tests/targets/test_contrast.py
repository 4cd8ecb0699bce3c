"""One answer rather than another: its formula, one box of a detector, nodes, and errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import ibisa_onnx as ibisa
from ibisa_onnx.demo import model_path, scene_path
from ibisa_onnx.targets.boxes import BoxObjective
from ibisa_onnx.targets.class_scores import Activation, ClassScores
from ibisa_onnx.targets.classification import ClassObjective
from ibisa_onnx.targets.contrast import ContrastObjective, ContrastTarget
from ibisa_onnx.targets.detection import BoxTarget
from ibisa_onnx.targets.embedding import SimilarityTarget
from ibisa_onnx.targets.onnx_nodes import OnnxObjective
from ibisa_onnx.targets.value import ValueTarget

SIDE, CELL = 32, 8
UNIT = ibisa.Preprocessing((SIDE, SIDE), resize="stretch", scale=1 / 255)


@pytest.fixture(scope="module")
def explainer() -> ibisa.Explainer:
    return ibisa.Explainer(model_path(), threads=1, cache=False)


def of_class(index: int, activation: Activation = Activation.SOFTMAX, name: str = "y") -> Any:
    return ClassObjective(ClassScores(name, 3, activation), index, f"label {index}")


LOGITS = np.array([[1.0, 3.0, -2.0], [0.5, 0.0, 4.0], [200.0, -300.0, 0.0]])


# -- classes


def test_of_a_softmax_it_is_the_log_sigmoid_of_the_difference_of_logits():
    contrast = ContrastObjective(of_class(0), of_class(2))
    raw = {"y": LOGITS}
    difference = LOGITS[:, 0] - LOGITS[:, 2]
    np.testing.assert_allclose(contrast.score(raw), -np.logaddexp(0, -difference), atol=1e-9)
    slope = 1 / (1 + np.exp(difference))
    expected = np.stack([slope, np.zeros(3), -slope], 1)
    np.testing.assert_allclose(contrast.vjp(raw)["y"], expected, rtol=1e-5, atol=1e-7)
    opposite = ContrastObjective(of_class(2), of_class(0))
    np.testing.assert_allclose(contrast.probability(raw) + opposite.probability(raw), 1)


def test_probabilities_of_several_outputs_are_compared():
    first = of_class(1, Activation.PROBABILITY, "a")
    second = of_class(0, Activation.SIGMOID_LOGIT, "b")
    contrast = ContrastObjective(first, second)
    assert contrast.outputs == ("a", "b")
    raw = {"a": np.array([[0.2, 0.6, 0.2]]), "b": np.array([[-1.0, 5.0, 0.0]])}
    q = 1 / (1 + np.exp(1.0))
    np.testing.assert_allclose(contrast.probability(raw), 0.6 / (0.6 + q))
    found = contrast.vjp(raw)
    for name in ("a", "b"):
        for place in np.ndindex(raw[name].shape):
            step = np.zeros((1, 3))
            step[place] = 1e-6
            above, below = (
                contrast.score({**raw, name: raw[name] + sign * step}) for sign in (1, -1)
            )
            slope = (above - below)[0] / 2e-6
            assert found[name][place] == pytest.approx(slope, rel=1e-4, abs=1e-7)


def test_the_maps_of_two_objects_lie_apart(explainer: ibisa.Explainer):
    found = explainer.explain(scene_path(), ContrastTarget("striped ball", "star"))
    assert found.target.kind == "contrast"
    assert found.target.caption == "striped ball rather than star"
    assert found.target.details == {"first": "striped ball (1)", "second": "star (0)"}
    assert found.certificate.gradient == "exact"
    predicted = {each.label: each.probability for each in explainer.predict(scene_path(), 8)}
    p, q = predicted["striped ball"], predicted["star"]
    assert found.target.probability == pytest.approx(p / (p + q), rel=1e-4)
    ball = explainer.explain(scene_path(), "striped ball")
    other = explainer.explain(scene_path(), ContrastTarget("star", "striped ball"))
    alike, unlike = (np.corrcoef(found.map.ravel(), e.map.ravel())[0, 1] for e in (ball, other))
    assert alike > 0.5 > unlike


def test_it_is_explained_beside_others_and_by_every_method(explainer: ibisa.Explainer):
    targets = ["star", ContrastTarget("star", 5), ContrastTarget(1, "star")]
    found = explainer.explain_all(scene_path(), targets)
    assert [each.target.kind for each in found] == ["class", "contrast", "contrast"]
    for method in ("rise", "gradcam", "occlusion"):
        assert explainer.explain(scene_path(), targets[1], method=method).method == method


def test_contrasts_of_one_model_share_a_gradient():
    first = ContrastObjective(of_class(0), of_class(1))
    assert first.family == ContrastObjective(of_class(2), of_class(0)).family
    assert first == ContrastObjective(of_class(0), of_class(1))
    assert len({first, ContrastObjective(of_class(0), of_class(1))}) == 1


def test_the_record_comes_back_from_disk(explainer: ibisa.Explainer, tmp_path: Path):
    found = explainer.explain(scene_path(), ContrastTarget("star", "striped ball"))
    found.save(tmp_path)
    assert ibisa.Explanation.load(tmp_path).target == found.target


def test_own_objectives_are_compared_too(explainer: ibisa.Explainer):
    def nodes(index: int) -> OnnxObjective:
        def write(head: Any) -> str:
            return str(head.column(head.op("LogSoftmax", head.rows("logits"), axis=1), index))

        return OnnxObjective(write, f"class {index}")

    mixed = ContrastTarget(nodes(0), nodes(1))
    direct = ContrastObjective(nodes(0), nodes(1))
    usual = explainer.explain(scene_path(), ContrastTarget("star", "striped ball"))
    found = explainer.explain(scene_path(), direct)
    assert found.target.probability == pytest.approx(usual.target.probability, rel=1e-5)
    assert np.corrcoef(found.map.ravel(), usual.map.ravel())[0, 1] > 0.95
    assert found.target.caption == "class 0 rather than class 1"
    assert mixed.bind({}, None)[0].outputs == direct.outputs  # type: ignore[arg-type]


# -- a detector's box


def detector() -> bytes:
    """Sixteen boxes of 8 pixels: `scores` [1, 16, 2] are the sigmoids of how red and how green."""
    kernel = np.zeros((2, 3, CELL, CELL), np.float32)
    kernel[0, 0] = kernel[1, 1] = 10 / CELL**2
    corners = [
        [x, y, x + CELL, y + CELL] for y in range(0, SIDE, CELL) for x in range(0, SIDE, CELL)
    ]
    nodes = [
        helper.make_node("Conv", ["image", "kernel", "bias"], ["colours"], strides=[CELL, CELL]),
        helper.make_node("Reshape", ["colours", "flat"], ["table"]),
        helper.make_node("Transpose", ["table"], ["rows"], perm=[0, 2, 1]),
        helper.make_node("Sigmoid", ["rows"], ["scores"]),
        helper.make_node("ReduceSum", ["rows"], ["sum"], axes=[2], keepdims=1),
        helper.make_node("Mul", ["sum", "nothing"], ["zeros"]),
        helper.make_node("Add", ["zeros", "corners"], ["boxes"]),
    ]
    constants = {
        "kernel": kernel,
        "bias": np.array([-4, -4], np.float32),
        "flat": np.array([0, 2, 16], np.int64),
        "nothing": np.float32(0),
        "corners": np.array([corners], np.float32),
    }
    shapes = {"boxes": [1, 16, 4], "scores": [1, 16, 2]}
    graph = helper.make_graph(
        nodes,
        "detector",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, SIDE, SIDE])],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n, shape in shapes.items()],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    imports = [helper.make_opsetid("", 11)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8).SerializeToString()


def test_another_class_in_the_same_box_is_the_rival():
    explainer = ibisa.Explainer(
        detector(), preprocessing=UNIT, labels=["red", "green"], threads=1, cache=False
    )
    shown = np.zeros((SIDE, SIDE, 3), np.uint8)
    shown[8:16, 16:24] = (200, 110, 0)  # red, and a little green
    shown[24:32, 0:8] = (0, 190, 0)  # the surest green, elsewhere
    for target in (
        ContrastTarget("red", "green"),
        ContrastTarget(BoxTarget(at=(20, 12)), "green"),
        ContrastTarget(BoxTarget(label="red"), 1),
    ):
        objective = explainer.problem(shown, target).row.objective
        assert isinstance(objective, ContrastObjective)
        first, second = objective.first, objective.second
        assert isinstance(first, BoxObjective)
        assert isinstance(second, BoxObjective)
        assert (first.anchors, first.column, second.column) == (second.anchors, 0, 1)
    found = explainer.explain(shown, target)
    assert found.target.caption.startswith("box 1: red at 16,8,24,16 rather than green")
    assert found.target.details["box"] == [16, 8, 24, 16]
    p, q = (1 / (1 + np.exp(4 - 10 * level / 255)) for level in (200, 110))
    assert found.target.probability == pytest.approx(p / (p + q), rel=1e-4)
    assert found.map[6:18, 14:26].sum() > 0.7 * found.map.sum()
    with pytest.raises(ibisa.TargetError, match="class 2 is out of range"):
        explainer.explain(shown, ContrastTarget("red", 2))


def test_of_two_boxes_both_are_named_and_recorded():
    explainer = ibisa.Explainer(
        detector(), preprocessing=UNIT, labels=["red", "green"], threads=1, cache=False
    )
    shown = np.zeros((SIDE, SIDE, 3), np.uint8)
    shown[8:16, 16:24, 0] = 200
    shown[24:32, 0:8, 0] = 190
    found = explainer.explain(shown, ContrastTarget(BoxTarget(2), BoxTarget(1)))
    assert found.target.caption == "box 2: red at 0,24,8,32 rather than box 1: red at 16,8,24,16"
    assert found.target.details["number"] == 2
    assert found.target.details["versus"] == {"number": 1, "box": [16, 8, 24, 16]}
    same = explainer.explain(shown, ContrastTarget(BoxTarget(2), "green"))
    assert same.target.caption == "box 2: red at 0,24,8,32 rather than green"
    assert "versus" not in same.target.details


@pytest.mark.real
def test_each_of_two_dogs_is_shown_by_its_contrast_with_the_other(assets: Path):
    explainer = ibisa.Explainer(
        assets / "models" / "mobilenetv2.onnx",
        preprocessing="tf",
        overrides={"resize": "stretch"},
        labels=assets / "imagenet_classes_1001.txt",
    )
    dogs = ["Italian greyhound", "Boston bull"]  # on the left, and on the right
    shares = []
    for target in (ContrastTarget(*dogs), ContrastTarget(*dogs[::-1])):
        found = explainer.explain(assets / "detection" / "pets.jpg", target)
        shares.append(found.map[:, : found.map.shape[1] // 2].sum() / found.map.sum())
    assert shares[0] > 0.8
    assert shares[1] < 0.3


# -- nodes


@pytest.mark.parametrize("opset", [7, 13, 21])
@pytest.mark.parametrize("activation", [Activation.SOFTMAX, Activation.SIGMOID_LOGIT])
def test_it_writes_its_score_as_onnx_nodes(activation: Activation, opset: int):
    contrast = ContrastObjective(of_class(0, activation), of_class(2, activation))
    values = LOGITS[:2].astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 3])],
    )
    name = contrast.to_onnx(graph)
    assert name is not None
    graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 1]))
    imports = [helper.make_opsetid("", opset)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=8)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    written = session.run([name], {"x": values})[0]
    expected = contrast.score({"y": values})[:, None]
    np.testing.assert_allclose(written, expected, rtol=1e-5, atol=1e-6)


class InPython(ibisa.Objective):
    """A score that lives in Python alone."""

    outputs = ("y",)

    def score(self, raw: Any) -> np.ndarray:
        return np.zeros(len(raw["y"]))

    def describe(self) -> dict[str, Any]:
        return {"kind": "class", "caption": "own"}


def test_where_either_lives_in_python_alone_nothing_is_written():
    graph = onnx.GraphProto()
    assert ContrastObjective(of_class(0), InPython()).to_onnx(graph) is None
    assert not graph.node
    assert not graph.initializer


# -- errors


@pytest.mark.parametrize(
    ("target", "said"),
    [
        (ContrastTarget("star", 0), "target and versus are the same, star (0); pass another"),
        (
            ContrastTarget("top:2", "star"),
            "target 'top:2' stands for 2 objectives; a contrast requires one",
        ),
        (
            ContrastTarget("star", [1, 2]),
            "target [1, 2] is a sequence; a contrast requires a single one",
        ),
        (ContrastTarget("star", "nothing"), "nothing"),
        (
            ContrastTarget(ValueTarget("raise", index=0), ValueTarget("raise", index=1)),
            "a value cannot be contrasted with another: it is not a probability; explain each",
        ),
        (
            ContrastTarget(*[SimilarityTarget(output="logits")] * 2),
            "a similarity cannot be contrasted with another: pass like= and unlike=",
        ),
        (
            ContrastTarget("star", OnnxObjective(lambda head: head.column("logits", 0), "own")),
            "target and versus must be of the same kind; target is a class, versus a nodes",
        ),
    ],
)
def test_what_cannot_be_compared_is_refused_in_one_line(
    explainer: ibisa.Explainer, target: ContrastTarget, said: str
):
    with pytest.raises(ibisa.TargetError) as caught:
        explainer.explain(scene_path(), target)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)

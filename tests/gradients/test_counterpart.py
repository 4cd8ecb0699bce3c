"""`gradient_from`: the gradient of the ONNX file that runs behind a function.

The function runs the demo model, so the file's own map is the right one. Models on servers are in
`tests/serving/test_remote.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import ibisa_onnx as ibisa
from ibisa_onnx.errors import GradientError, ModelError

DEMO = Path(ibisa.__file__).parent / "demo" / "model.onnx"
SCENE = DEMO.parent / "scene.png"
SPEC = ibisa.InputSpec((None, 3, 128, 128))


@pytest.fixture(scope="module")
def predict() -> Callable[[np.ndarray], np.ndarray]:
    model = ibisa.DeployedModel.open(DEMO, threads=1)
    return lambda images: model.run(images)["logits"]


@pytest.fixture(scope="module")
def own() -> ibisa.Explanation:
    return ibisa.Explainer(DEMO).explain(SCENE)


def test_gives_the_files_own_map(predict: Any, own: ibisa.Explanation):
    explainer = ibisa.Explainer(predict, SPEC, gradient_from=DEMO)
    found = explainer.explain(SCENE)
    assert found.map.tobytes() == own.map.tobytes()
    assert found.target.label == "striped ball"  # by the file's metadata, as is the preprocessing
    assert found.certificate.reason == "the gradient of model.onnx"
    assert found.certificate.holds
    assert explainer.settings["surrogate"] == ibisa.DeployedModel.open(DEMO).sha256


def test_of_a_file_with_a_fixed_batch(predict: Any, own: ibisa.Explanation, tmp_path: Path):
    proto = onnx.load(DEMO)
    for each in (*proto.graph.input, *proto.graph.output):
        each.type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(proto, tmp_path / "one.onnx")
    explainer = ibisa.Explainer(predict, SPEC, gradient_from=tmp_path / "one.onnx")
    first, second = explainer.explain_all(SCENE, "top:2")
    np.testing.assert_allclose(first.map, own.map, atol=1e-5)
    assert second.certificate.gradient == "surrogate"


def test_explains_outputs_together_with_nodes_behind_them(tmp_path: Path):
    """A detector of two outputs: scores and boxes of three squares, decoded by nodes."""
    squares = np.array([[4, 4, 14, 14], [18, 4, 28, 14], [4, 18, 14, 28]], np.float32)
    weights = np.zeros((3, 3, 32, 32), np.float32)
    for row, (left, top, right, bottom) in enumerate(squares.astype(int)):
        weights[row, :, top:bottom, left:right] = 1 / 300
    nodes = [
        helper.make_node("Conv", ["image", "weights"], ["means"]),
        helper.make_node("Reshape", ["means", "shape"], ["logits"]),
        helper.make_node("Sigmoid", ["logits"], ["both"]),
        helper.make_node("Unsqueeze", ["both", "axis"], ["scores"]),
        helper.make_node("Mul", ["logits", "zero"], ["none"]),
        helper.make_node("Unsqueeze", ["none", "axis"], ["column"]),
        helper.make_node("Add", ["column", "squares"], ["boxes"]),
    ]
    values = {
        "weights": 8 * weights,
        "shape": np.array([-1, 3]),
        "axis": np.array([2]),
        "zero": np.float32(0),
        "squares": squares[None],
    }
    graph = helper.make_graph(
        nodes,
        "detector",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 32, 32])],
        [
            helper.make_tensor_value_info("boxes", TensorProto.FLOAT, ["N", 3, 4]),
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 3, 1]),
        ],
        [numpy_helper.from_array(np.asarray(each), name) for name, each in values.items()],
    )
    opset = [helper.make_opsetid("", 17)]
    path = tmp_path / "detector.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)
    model = ibisa.DeployedModel.open(path)
    spec = ibisa.InputSpec(
        (None, 3, 32, 32), outputs={"boxes": (None, 3, 4), "scores": (None, 3, 1)}
    )
    options: dict[str, Any] = {
        "preprocessing": "unit",
        "overrides": {"resize": "stretch"},
        "labels": ["square"],
        "options": ibisa.Options(baseline="mean"),
    }
    image = np.zeros((32, 32, 3), np.uint8)
    image[4:14, 18:28] = 255
    image[18:28, 4:14] = 160
    explainer = ibisa.Explainer(model.run, spec, gradient_from=path, **options)
    found = explainer.explain(image, ibisa.BoxTarget(1))
    assert found.certificate.gradient == "surrogate", found.certificate
    assert found.target.box == pytest.approx((18, 4, 28, 14))
    row, column = np.unravel_index(found.map.argmax(), found.map.shape)
    assert 4 <= row < 14
    assert 18 <= column < 28


class TestAnotherModel:
    def test_is_not_used(self, predict: Any):
        other = lambda images: predict(images)[:, ::-1].copy()  # noqa: E731
        found = ibisa.Explainer(other, SPEC, gradient_from=DEMO, budget=40).explain(SCENE)
        assert found.certificate.gradient == "forward-only"
        assert "differs from the deployed model by" in found.certificate.reason

    def test_is_used_with_a_warning_if_it_is_named(self, predict: Any):
        other = lambda images: predict(images)[:, ::-1].copy()  # noqa: E731
        explainer = ibisa.Explainer(other, SPEC, gradient_from=DEMO, gradient="surrogate")
        found = explainer.explain(SCENE)
        assert not found.certificate.holds
        assert any("may not be faithful" in text for text in found.warnings)

    def test_of_other_outputs_is_reported(self, predict: Any):
        def two(images: np.ndarray) -> dict[str, np.ndarray]:
            return {"a": predict(images), "b": images.mean((1, 2, 3))[:, None]}

        spec = ibisa.InputSpec((None, 3, 128, 128), outputs={"a": (None, 8), "b": (None, 1)})
        target = ibisa.ValueTarget("raise", "b")
        found = ibisa.Explainer(two, spec, gradient_from=DEMO, budget=40).explain(SCENE, target)
        assert found.certificate.gradient == "forward-only"
        assert "has the output(s) logits, but the target reads b" in found.certificate.reason
        named = ibisa.Explainer(two, spec, gradient_from=DEMO, gradient="surrogate")
        with pytest.raises(GradientError, match="but the target reads b of the model"):
            named.explain(SCENE, target)


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"gradient": "exact"}, GradientError, r"gradient='exact' does not use gradient_from="),
        ({"surrogate": DEMO}, GradientError, "two gradients; omit one of them"),
        (
            {"gradient_from": "absent.onnx"},
            ModelError,
            r"gradient_from='absent\.onnx' cannot be op",
        ),
    ],
    ids=["exact", "surrogate", "absent"],
)
def test_what_contradicts_it_is_rejected(
    options: dict[str, Any], error: type[Exception], said: str, predict: Any
):
    with pytest.raises(error, match=said):
        ibisa.Explainer(predict, SPEC, **{"gradient_from": DEMO, **options})


def test_a_file_has_its_own():
    with pytest.raises(ModelError, match="an ONNX file has a gradient of its own"):
        ibisa.Explainer(DEMO, gradient_from=DEMO)

"""A user's own objectives: in NumPy, in torch, in ONNX nodes, on outputs and on inner tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import ibisa_onnx as ibisa
from ibisa_onnx.demo import model_path, scene_path
from ibisa_onnx.models.head import Head
from ibisa_onnx.targets.class_scores import Activation, ClassScores, Quantisation
from ibisa_onnx.targets.classification import ClassObjective
from ibisa_onnx.targets.onnx_nodes import OnnxObjective
from ibisa_onnx.targets.torch_function import TorchObjective

OUTPUT = "logits"


class Either(ibisa.Objective):
    """One of two classes, whichever: log (p_i + p_j)."""

    def __init__(self, first: int, second: int) -> None:
        self.chosen = [first, second]

    @property
    def outputs(self) -> tuple[str, ...]:
        return (OUTPUT,)

    def softmax(self, raw: Any) -> np.ndarray:
        powers = np.exp(raw[OUTPUT].astype(np.float64))
        return powers / powers.sum(1, keepdims=True)

    def score(self, raw: Any) -> np.ndarray:
        return np.log(self.softmax(raw)[:, self.chosen].sum(1))

    def vjp(self, raw: Any) -> dict[str, np.ndarray]:
        p = self.softmax(raw)
        cotangent = -p
        cotangent[:, self.chosen] += p[:, self.chosen] / p[:, self.chosen].sum(1, keepdims=True)
        return {OUTPUT: cotangent.astype(np.float32)}

    def describe(self) -> dict[str, Any]:
        return {"kind": "either", "caption": "star or ball", "classes": self.chosen}


def either_in_torch() -> TorchObjective:
    def score(logits: torch.Tensor) -> torch.Tensor:
        return torch.log(torch.softmax(logits, 1)[:, [0, 1]].sum(1))

    return TorchObjective(score, [OUTPUT], "star or ball")


def either_in_onnx() -> OnnxObjective:
    def write(head: Head) -> str:
        softmax = head.op("Softmax", OUTPUT, axis=1)
        two = head.op("Gather", softmax, head.constant([0, 1], np.int64), axis=1)
        return head.log(head.op("ReduceSum", two, head.constant([1], np.int64), keepdims=1), 1e-12)

    return OnnxObjective(write, "star or ball")


@pytest.fixture(scope="module")
def explainer() -> ibisa.Explainer:
    return ibisa.Explainer(model_path(), threads=1, cache=False)


def test_the_model_is_the_one_that_is_meant(explainer: ibisa.Explainer):
    assert [each.name for each in explainer.model.signature.outputs] == [OUTPUT]


def test_numpy_torch_and_onnx_give_the_same_map(explainer: ibisa.Explainer):
    ours = explainer.explain(scene_path(), Either(0, 1))
    assert (ours.target.kind, ours.target.caption) == ("either", "star or ball")
    assert ours.target.details == {"classes": [0, 1]}
    assert ours.certificate.gradient == "exact"
    for other in (either_in_torch(), either_in_onnx()):
        found = explainer.explain(scene_path(), other)
        assert found.certificate.gradient == "exact"
        assert found.certificate.holds
        assert found.target.probability == pytest.approx(ours.target.probability, rel=1e-5)
        np.testing.assert_allclose(found.map, ours.map, atol=1e-3)


def test_both_objects_are_needed_where_either_will_do(explainer: ibisa.Explainer):
    """The two classes' own maps lie apart; that of either takes in the likelier one at least."""
    star, ball = explainer.explain_all(scene_path(), ["star", "striped ball"])
    found = explainer.explain(scene_path(), Either(0, 1))
    likelier = max((star, ball), key=lambda each: each.target.probability)
    assert np.corrcoef(found.map.ravel(), likelier.map.ravel())[0, 1] > 0.5


def test_objectives_of_several_kinds_are_explained_in_one_call(explainer: ibisa.Explainer):
    before = explainer.model.passes.count
    own = Either(0, 1)
    found = explainer.explain_all(scene_path(), ["star", own, "striped ball"])
    assert [each.target.kind for each in found] == ["class", "either", "class"]
    alone = explainer.explain(scene_path(), own)
    np.testing.assert_array_equal(found[1].map, alone.map)
    spent = explainer.model.passes.forward - before.forward
    assert spent == sum(each.passes.forward for each in (*found, alone))


def test_forward_only_and_methods_take_them(explainer: ibisa.Explainer):
    blind = ibisa.Explainer(model_path(), threads=1, gradient="forward-only", budget=60)
    assert blind.explain(scene_path(), Either(0, 1)).certificate.gradient == "forward-only"
    for method in ("rise", "gradcam", "occlusion"):
        assert explainer.explain(scene_path(), Either(0, 1), method=method).method == method


def test_inner_tensors_can_be_read(explainer: ibisa.Explainer):
    """The features before the last layer, which is put behind them in torch."""
    proto = onnx.load(model_path())
    last = proto.graph.node[-1]
    values = {each.name: onnx.numpy_helper.to_array(each) for each in proto.graph.initializer}
    weight, bias = (torch.tensor(values[name]) for name in last.input[1:])

    def star(features: torch.Tensor) -> torch.Tensor:
        return torch.log_softmax(features @ weight.T + bias, 1)[:, 0]

    inner = TorchObjective(star, [last.input[0]], "star, by its features")
    found, usual = explainer.explain(scene_path(), inner), explainer.explain(scene_path(), 0)
    assert found.certificate.gradient == "exact"
    np.testing.assert_allclose(found.map, usual.map, atol=1e-3)
    with pytest.raises(ibisa.OutputError, match="no output or tensor 'nowhere'"):
        explainer.explain(scene_path(), TorchObjective(lambda x: x[:, 0], ["nowhere"], "none"))


def test_a_function_has_nothing_inside():
    explainer = ibisa.Explainer(lambda x: x.mean((2, 3)), ibisa.InputSpec((None, 3, 8, 8)))
    with pytest.raises(ibisa.OutputError, match="has no output 'inner'"):
        explainer.explain(np.zeros((8, 8, 3), np.uint8), TorchObjective(torch.sum, ["inner"], "x"))


def test_what_a_torch_function_returns_is_checked(explainer: ibisa.Explainer):
    with pytest.raises(ibisa.GradientError, match=r"returned Tensor \[\] for 1 row"):
        explainer.explain(scene_path(), TorchObjective(torch.sum, [OUTPUT], "sum"))


KINDS = {
    Activation.SOFTMAX: np.array([[1.0, 3.0, -2.0], [0.5, 0.0, 4.0]]),
    Activation.LOG: np.log([[0.2, 0.5, 0.3], [0.1, 0.1, 0.8]]),
    Activation.PROBABILITY: np.array([[0.2, 0.5, 0.3], [0.1, 0.1, 0.8]]),
    Activation.SIGMOID: np.array([[0.9, 0.5, 1e-20], [0.1, 0.2, 0.3]]),
    Activation.SIGMOID_LOGIT: np.array([[1.0, 3.0, -80.0], [0.5, 0.0, 4.0]]),
}


@pytest.mark.parametrize("opset", [7, 11, 13, 17, 21])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 1, 1)])
def test_a_class_writes_its_score_as_onnx_nodes(kind: Activation, opset: int, shape: Any):
    values = KINDS[kind].reshape(shape).astype(np.float32)
    objective = ClassObjective(ClassScores("y", 3, kind), 2)
    found = _run_head(objective, values, onnx.TensorProto.FLOAT, opset)
    np.testing.assert_allclose(found[:, 0], objective.score({"y": values}), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("opset", [7, 13, 21])
@pytest.mark.parametrize("kind", [Activation.SIGMOID, Activation.SIGMOID_LOGIT])
@pytest.mark.parametrize("index", [0, 1])
def test_both_classes_of_one_score_are_onnx_nodes(index: int, kind: Activation, opset: int):
    values = np.array([[[[0.9]]], [[[0.2]]]], np.float32)
    objective = ClassObjective(ClassScores("y", 2, kind, one_score=True), index)
    found = _run_head(objective, values, onnx.TensorProto.FLOAT, opset)
    np.testing.assert_allclose(found[:, 0], objective.score({"y": values}), rtol=1e-5, atol=1e-6)


def test_a_quantised_class_is_dequantised_in_its_nodes():
    reading = ClassScores("y", 3, Activation.PROBABILITY, Quantisation(1 / 256, 0))
    values = np.array([[10, 100, 146], [0, 0, 255]], np.uint8)
    objective = ClassObjective(reading, 1)
    found = _run_head(objective, values, onnx.TensorProto.UINT8, 13)
    np.testing.assert_allclose(found[:, 0], objective.score({"y": values}), rtol=1e-5)


def _run_head(objective: Any, values: np.ndarray, elem: int, opset: int) -> np.ndarray:
    helper = onnx.helper
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", elem, values.shape)],
        [helper.make_tensor_value_info("y", elem, values.shape)],
    )
    name = objective.to_onnx(graph)
    graph.output.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [None, 1]))
    imports = [helper.make_opsetid("", opset)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=8)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    result: np.ndarray = session.run([name], {"x": values})[0]
    assert result.shape == (len(values), 1)
    return result


class Odd(Either):
    """An objective that is wrong in one way."""

    def __init__(self, **values: Any) -> None:
        super().__init__(0, 1)
        self.values = values

    def score(self, raw: Any) -> np.ndarray:
        return self.values["score"] if "score" in self.values else super().score(raw)

    def vjp(self, raw: Any) -> dict[str, np.ndarray]:
        return self.values["vjp"] if "vjp" in self.values else super().vjp(raw)


@pytest.mark.parametrize(
    ("wrong", "error", "said"),
    [
        ({"score": np.float64(-1)}, ibisa.OutputError, r"returned scores \[\] for 1 row"),
        ({"score": np.zeros((1, 2))}, ibisa.OutputError, r"returned scores \[1, 2\] for 1 row"),
        ({"score": np.array([np.nan])}, ibisa.OutputError, "a score that is NaN"),
        ({"vjp": {}}, ibisa.GradientError, r"returned nothing for logits \[1, 8\]"),
        (
            {"vjp": {OUTPUT: np.zeros(8)}},
            ibisa.GradientError,
            r"returned \[8\] for logits \[1, 8\]",
        ),
    ],
)
def test_what_an_objective_returns_is_checked(wrong: Any, error: type[Exception], said: str):
    explainer = ibisa.Explainer(model_path(), threads=1)
    with pytest.raises(error, match=said):
        explainer.explain(scene_path(), Odd(**wrong))
    assert explainer.model.max_batch > 1
    assert not explainer.model.warnings


class Underived(ibisa.Objective):
    """A score without a derivative."""

    @property
    def outputs(self) -> tuple[str, ...]:
        return (OUTPUT,)

    def score(self, raw: Any) -> np.ndarray:
        return raw[OUTPUT][:, 0].astype(np.float64) - 30

    def describe(self) -> dict[str, Any]:
        return {"kind": "underived", "caption": "star"}


def test_without_a_derivative_it_is_explained_by_forward_passes():
    explainer = ibisa.Explainer(model_path(), threads=1, budget=60)
    found = explainer.explain(scene_path(), Underived())
    assert found.certificate.gradient == "forward-only"
    assert found.certificate.reason == "Underived has no vjp"
    exact = ibisa.Explainer(model_path(), threads=1, gradient="exact")
    with pytest.raises(ibisa.GradientError, match="Underived has no vjp"):
        exact.explain(scene_path(), Underived())


def test_classes_and_nodes_are_explained_together_from_the_first_call_on():
    """The tensor that the nodes make is not taken for class scores."""
    explainer = ibisa.Explainer(model_path(), threads=1)
    star, either = explainer.explain_all(scene_path(), [0, either_in_onnx()])
    assert (star.target.kind, either.target.kind) == ("class", "nodes")
    assert star.target.output == OUTPUT


def test_nodes_of_one_caption_are_told_apart_or_refused(explainer: ibisa.Explainer):
    with pytest.raises(
        ibisa.OptionError, match=r"two objectives write the same tensor .*star or ball"
    ):
        explainer.explain_all(scene_path(), [either_in_onnx(), either_in_onnx()])
    odd = OnnxObjective(lambda head: head.column(head.rows(OUTPUT), 0), "cast_0")
    assert explainer.explain(scene_path(), odd).target.caption == "cast_0"


def test_each_objective_is_checked_by_its_own_reading(monkeypatch: pytest.MonkeyPatch):
    """One forward pass for both; what they differ by is each one's own."""
    from ibisa_onnx.gradients.onnx_backward import _MaskedGraph

    real = _MaskedGraph.forward

    def off(self: Any, masks: np.ndarray) -> Any:
        raw, saved = real(self, masks)
        if (masks == 1).all():
            raw[OUTPUT][:, 5] += 3  # which the softmax of others feels little
        return raw, saved

    monkeypatch.setattr(_MaskedGraph, "forward", off)
    explainer = ibisa.Explainer(model_path(), threads=1, gradient="exact")
    first, second = explainer.explain_all(scene_path(), [Logit(0), Logit(5)])
    assert first.certificate.difference == pytest.approx(0, abs=1e-6)
    assert second.certificate.difference is not None
    assert second.certificate.difference > 0.01


class Logit(Underived):
    """The logit of one class, far below what would overflow."""

    def __init__(self, index: int) -> None:
        self.index = index

    def score(self, raw: Any) -> np.ndarray:
        return raw[OUTPUT][:, self.index].astype(np.float64) / 10

    def vjp(self, raw: Any) -> dict[str, np.ndarray]:
        cotangent = np.zeros_like(raw[OUTPUT])
        cotangent[:, self.index] = 0.1
        return {OUTPUT: cotangent}


def test_passes_of_several_kinds_add_up(explainer: ibisa.Explainer):
    before = explainer.model.passes.count
    found = explainer.explain_all(scene_path(), [0, Logit(1), Logit(2), either_in_torch()])
    after = explainer.model.passes.count
    assert sum(each.passes.forward for each in found) == after.forward - before.forward
    assert sum(each.passes.backward for each in found) == after.backward - before.backward


def test_sessions_of_inner_tensors_do_not_pile_up(explainer: ibisa.Explainer):
    exposed = explainer._pipeline._exposed
    for number in range(6):
        inner = TorchObjective(lambda x: -x.mean((1, 2, 3)), ["/GlobalAveragePool_output_0"], "x")
        explainer.problem(scene_path(), inner)
        nodes = OnnxObjective(lambda head: head.column(head.rows(OUTPUT), 0), f"n{number}")
        explainer.problem(scene_path(), nodes)
    assert len(exposed._open.values()) <= 4


def test_a_target_may_bind_to_an_objective_that_adds_nodes(explainer: ibisa.Explainer):
    class Likeliest:
        def outputs(self, reader: Any) -> tuple[str, ...]:
            return (OUTPUT,)

        def bind(self, raw: Any, reader: Any) -> list[ibisa.Objective]:
            best = int(raw[OUTPUT][0].argmax())

            def write(head: Head) -> str:
                return head.column(head.op("LogSoftmax", head.rows(OUTPUT), axis=1), best)

            return [OnnxObjective(write, f"class {best}, by nodes")]

    found, usual = explainer.explain(scene_path(), Likeliest()), explainer.explain(scene_path())
    assert found.target.probability == pytest.approx(usual.target.probability, rel=1e-5)
    np.testing.assert_allclose(found.map, usual.map, atol=1e-3)


def test_an_objective_without_a_derivative_says_so() -> None:
    class Forward(ibisa.Objective):
        outputs = (OUTPUT,)

        def score(self, raw: Any) -> np.ndarray:
            return raw[OUTPUT][:, 0]

        def describe(self) -> dict[str, Any]:
            return {"kind": "mine", "caption": "the first"}

    with pytest.raises(ibisa.GradientError, match="Forward is not differentiable"):
        Forward().vjp({OUTPUT: np.zeros((1, 8), np.float32)})


@pytest.mark.parametrize("place", [(10, 20, 40, 60), (0.5, 0.0, 0.4, 1.0), (0, 1), "here"])
def test_where_an_answer_lies_is_given_as_shares(explainer: ibisa.Explainer, place: Any) -> None:
    class Placed(Either):
        location = place

    with pytest.raises(
        ibisa.OutputError, match=r"has location .*return left, top, right, bottom in 0"
    ):
        explainer.explain(scene_path(), Placed(0, 1))

"""Values: planted regressions, maps and a siamese pair, numeric derivatives, nodes, and errors."""

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
from ibisa_onnx.targets.arguments import PointTarget
from ibisa_onnx.targets.facts import ModelFacts
from ibisa_onnx.targets.retention import Nearness, Share
from ibisa_onnx.targets.value import (
    Direction,
    ValueKind,
    ValueObjective,
    ValueTarget,
    Window,
    find,
    find_depth,
    find_told,
    spans_of,
)

SIDE = 32
SQUARES = ((4, 4), (20, 18))  # of 8 pixels a side
UNIT = ibisa.Preprocessing((SIDE, SIDE), resize="stretch", scale=1 / 255)


def model_of(
    nodes: list[onnx.NodeProto],
    outputs: dict[str, list[Any]],
    constants: dict[str, Any],
    inputs: tuple[str, ...] = ("image",),
    **metadata: str,
) -> bytes:
    """A model of pictures float32 [n, 3, 32, 32]."""

    def tensor(name: str, shape: list[Any]) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    graph = helper.make_graph(
        nodes,
        "model",
        [tensor(name, ["n", 3, SIDE, SIDE]) for name in inputs],
        [tensor(*each) for each in outputs.items()],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    imports = [helper.make_opsetid("", 11)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=8)
    helper.set_model_props(model, metadata)
    return model.SerializeToString()


def of_squares(*columns: tuple[float, float]) -> np.ndarray:
    """Weights [K, 3072]: how much the brightness of each square counts."""
    weights = np.zeros((len(columns), 3, SIDE, SIDE), np.float32)
    for row, column in zip(weights, columns, strict=True):
        for (y, x), weight in zip(SQUARES, column, strict=True):
            row[:, y : y + 8, x : x + 8] = weight / 192
    return weights.reshape(len(columns), -1)


def regression(*columns: tuple[float, float], name: str = "age", **metadata: str) -> bytes:
    """20 + the weighted brightness of both squares, [n, K]."""
    nodes = [
        helper.make_node("Flatten", ["image"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w", "b"], [name], transB=1),
    ]
    bias = np.full(len(columns), 20, np.float32)
    constants = {"w": of_squares(*columns), "b": bias}
    return model_of(nodes, {name: ["n", len(columns)]}, constants, **metadata)


def explainer_of(model: bytes, **options: Any) -> ibisa.Explainer:
    return ibisa.Explainer(model, preprocessing=UNIT, threads=1, cache=False, **options)


def picture(*levels: int) -> np.ndarray:
    """A dark picture with squares of those levels."""
    pixels = np.full((SIDE, SIDE, 3), 60, np.uint8)
    for (y, x), level in zip(SQUARES, levels, strict=True):
        pixels[y : y + 8, x : x + 8] = level
    return pixels


def share(found: ibisa.Explanation, square: int) -> float:
    y, x = SQUARES[square]
    return float(found.map[y : y + 8, x : x + 8].sum() / found.map.sum())


# -- maps on planted pictures


def test_what_raises_a_value_and_what_keeps_it_are_found():
    """The first square raises it, the second lowers it less: both hold it where it is."""
    explainer = explainer_of(regression((40, -25)))
    shown = picture(230, 230)
    raised = explainer.explain(shown, ValueTarget("raise"))
    assert raised.target.kind == "value"
    assert raised.target.caption == "age raised"
    value = 20 + 15 * 230 / 255
    assert raised.target.details == {
        "value": pytest.approx(value, rel=1e-5),
        "direction": "raise",
    }
    assert raised.certificate.gradient == "exact"
    assert share(raised, 0) > 0.8
    assert share(raised, 1) < 0.05
    kept = explainer.explain(shown)
    assert kept.target.caption == "age kept"
    assert share(kept, 0) + share(kept, 1) > 0.7
    assert share(kept, 1) > 0.1
    assert raised.sufficiency is not None
    hidden, *shown_ = raised.sufficiency.probabilities
    assert hidden < 0.1
    assert max(shown_) > 0.9


def test_what_lowers_a_value_is_found_though_the_picture_as_a_whole_raises_it():
    found = explainer_of(regression((40, -25))).explain(picture(230, 230), ValueTarget("lower"))
    assert share(found, 1) > 0.5
    assert share(found, 0) < 0.05


def test_where_nothing_lowers_a_value_the_map_is_flat():
    found = explainer_of(regression((40, 0))).explain(picture(230, 230), ValueTarget("lower"))
    assert found.map.max() < 0.05
    assert any("flat" in each for each in found.warnings)


def test_one_number_of_several_is_explained_by_its_index_or_its_label():
    metadata = {"task": "regression", "names": "{0: 'yaw', 1: 'pitch'}"}
    explainer = explainer_of(regression((40, 0), (0, 40), name="angles", **metadata))
    assert explainer.kind.name == "regression"
    for target in ("pitch", "1", ValueTarget("raise", index=1), ValueTarget(index=(1,))):
        found = explainer.explain(picture(200, 200), target)
        assert share(found, 1) > 0.8
    assert explainer.explain(picture(9, 9), "pitch").target.caption == "pitch kept"
    assert explainer.explain(picture(9, 9), "1").target.caption == "angles[1] kept"
    answers = explainer.answers(picture(255, 0))
    assert [(each.caption, round(each.score, 3)) for each in answers] == [
        ("yaw", 60),
        ("pitch", 20),
    ]


def depth(name: str = "depth") -> bytes:
    """The mean brightness of each 4 x 4 pixels, [n, 1, 8, 8]."""
    kernel = np.full((1, 3, 4, 4), 1 / 48, np.float32)
    nodes = [helper.make_node("Conv", ["image", "kernel"], [name], strides=[4, 4])]
    return model_of(nodes, {name: ["n", 1, 8, 8]}, {"kernel": kernel})


def test_depth_at_a_point_is_explained_by_what_is_there():
    explainer = explainer_of(depth())
    assert explainer.kind.name == "depth"
    shown = np.full((2 * SIDE, 2 * SIDE, 3), 40, np.uint8)
    shown[8:56, 8:56] = 200
    for target in (ValueTarget(at=(17, 41)), PointTarget((17, 41))):
        found = explainer.explain(shown, target)
        assert found.target.caption == "depth at 17,41 kept"
        assert found.target.details["at"] == [17, 41]
        assert found.target.details["value"] == pytest.approx(200 / 255, rel=1e-4)
        assert found.map[36:52, 12:28].sum() > 0.9 * found.map.sum()
    least, median, greatest = explainer.answers(shown)
    assert least.score == pytest.approx(40 / 255, rel=1e-2)
    assert median.caption == "median depth"
    assert greatest.score == pytest.approx(200 / 255, rel=1e-2)
    x, y = greatest.details["at"]
    assert tuple(shown[int(y), int(x)]) == (200, 200, 200)


def test_the_middle_of_a_map_is_what_is_explained_where_nothing_is_said():
    found = explainer_of(depth()).explain(picture(9, 9), "raise")
    assert found.target.caption == "depth at 16,16 raised"
    with pytest.raises(ibisa.TargetError, match="target 'cat' is no question about depth"):
        explainer_of(depth()).explain(picture(9, 9), "cat")


def test_a_point_must_be_seen():
    spec = ibisa.Preprocessing((SIDE, SIDE), resize="shortest", scale=1 / 255)
    explainer = ibisa.Explainer(depth(), preprocessing=spec, threads=1)
    wide = np.zeros((SIDE, 3 * SIDE, 3), np.uint8)
    assert explainer.problem(wide, ValueTarget(at=(48, 5))).row.answer
    with pytest.raises(ibisa.TargetError, match="does not see the point 3,5: it is cropped away"):
        explainer.explain(wide, ValueTarget(at=(3, 5)))
    with pytest.raises(ibisa.TargetError, match="96,5 is outside of the picture, 96 x 32"):
        explainer.explain(wide, ValueTarget(at=(96, 5)))
    with pytest.raises(ibisa.TargetError, match=r"output age is \[N, 1\], and no map"):
        explainer_of(regression((1, 0))).explain(picture(9, 9), ValueTarget(at=(1, 1)))


def siamese() -> bytes:
    """Minus the mean squared difference of the first square of two pictures, [n, 1]."""
    y, x = SQUARES[0]
    mask = np.zeros((1, 3, SIDE, SIDE), np.float32)
    mask[:, :, y : y + 8, x : x + 8] = 16  # so many of such squares are a picture
    nodes = [
        helper.make_node("Sub", ["image", "other"], ["difference"]),
        helper.make_node("Mul", ["difference", "difference"], ["squared"]),
        helper.make_node("Mul", ["squared", "mask"], ["masked"]),
        helper.make_node("ReduceMean", ["masked"], ["mean"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Reshape", ["mean", "column"], ["column_of"]),
        helper.make_node("Neg", ["column_of"], ["similarity"]),
    ]
    constants = {"mask": mask, "column": np.array([-1, 1], np.int64)}
    return model_of(nodes, {"similarity": ["n", 1]}, constants, ("image", "other"))


@pytest.mark.parametrize("gradient", ["exact", "forward-only"])
def test_a_siamese_model_is_explained_with_the_other_picture_as_an_extra_input(gradient: str):
    """Both show the first square alike; the second is in one of them alone and is not compared."""
    other = picture(230, 60).transpose(2, 0, 1)[None].astype(np.float32) / 255
    explainer = explainer_of(
        siamese(), input="image", extra_inputs={"other": other}, gradient=gradient, budget=200
    )
    found = explainer.explain(picture(225, 240), ValueTarget("raise", "similarity"))
    assert found.target.caption == "similarity raised"
    assert found.target.details["value"] == pytest.approx(-((5 / 255) ** 2), rel=1e-3)
    assert found.certificate.gradient == gradient
    assert share(found, 0) > (0.9 if gradient == "exact" else 0.4)
    assert share(found, 1) < 0.1
    assert found.sufficiency is not None
    assert found.sufficiency.probabilities[0] < 0.1
    assert max(found.sufficiency.probabilities) > 0.9


def test_any_tensor_of_any_model_has_a_value():
    explainer = ibisa.Explainer(model_path(), threads=1, cache=False)
    inner = ValueTarget("raise", "/Flatten_output_0", index="3")
    found = explainer.explain(scene_path(), inner)
    assert found.target.caption == "Flatten_output_0[3] raised"
    assert found.certificate.gradient == "exact"
    logit = explainer.explain(scene_path(), ValueTarget("raise", "logits", index=0))
    usual = explainer.explain(scene_path(), "star")
    assert np.corrcoef(logit.map.ravel(), usual.map.ravel())[0, 1] > 0.5


def test_the_record_comes_back_from_disk(tmp_path: Path):
    found = explainer_of(depth()).explain(picture(200, 90), ValueTarget(at=(8, 8), index=0))
    found.save(tmp_path)
    assert ibisa.Explanation.load(tmp_path).target == found.target


def test_values_and_classes_are_explained_in_one_call():
    explainer = ibisa.Explainer(model_path(), threads=1, cache=False)
    found = explainer.explain_all(scene_path(), ["star", ValueTarget("raise", index=0)])
    assert [each.target.kind for each in found] == ["class", "value"]


@pytest.mark.real
def test_a_logit_that_is_raised_shows_the_dog_it_stands_for(assets: Path):
    explainer = ibisa.Explainer(
        assets / "models" / "mobilenetv2.onnx",
        preprocessing="tf",
        overrides={"resize": "stretch"},
    )
    shares = []
    for index in (172, 196):  # Italian greyhound, on the left; Boston bull, on the right
        found = explainer.explain(
            assets / "detection" / "pets.jpg", ValueTarget("raise", index=index)
        )
        assert found.certificate.gradient == "exact"
        shares.append(found.map[:, : found.map.shape[1] // 2].sum() / found.map.sum())
    assert shares[0] > 0.75
    assert shares[1] < 0.25


# -- the objective

WINDOWS = {
    "one": ((4,), "2"),
    "all": ((4,), None),
    "range": ((3, 5), "1:,2:4"),
    "none": ((), None),
    "map": ((2, 3, 3), "1"),
}


def objective_of(
    direction: str, window: str, reduce: str, hidden: float | None = None
) -> tuple[ValueObjective, np.ndarray]:
    sides, index = WINDOWS[window]
    values = np.random.default_rng(3).normal(2, 1, (3, *sides)).astype(np.float32)
    spans = spans_of(index, sides, "y")
    raw = {"y": values}
    found = ValueObjective.of(
        {"y": values[:1]}, Window("y", sides, spans, reduce), "y", Direction(direction)
    )
    if hidden is None:
        return found, values
    off = np.full_like(values[:1], hidden)
    return found.calibrated(raw, {"y": values[:1] + off}), values


@pytest.mark.parametrize("reduce", ["mean", "max", "sum"])
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize(("direction", "hidden"), [("raise", -2), ("lower", 2), ("keep", -2)])
def test_its_derivative_is_the_numeric_one(direction: str, hidden: float, window: str, reduce: str):
    objective, values = objective_of(direction, window, reduce, hidden)
    values = values.astype(np.float64)
    values[0] += 0.3 * hidden  # between the picture and what hides it
    found = objective.vjp({"y": values})["y"]
    assert found.dtype == np.float32
    assert found.shape == values.shape
    for place in np.ndindex(values.shape):
        step = np.zeros_like(values)
        step[place] = 1e-6
        above, below = (objective.score({"y": values + sign * step}) for sign in (1, -1))
        slope = (above - below) / 2e-6
        assert found[place] == pytest.approx(slope[place[0]], rel=2e-3, abs=2e-4)


@pytest.mark.parametrize("opset", [7, 21])
@pytest.mark.parametrize("reduce", ["mean", "max", "sum"])
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize(("direction", "hidden"), [("raise", -2), ("lower", 2), ("keep", -2)])
def test_it_writes_its_score_as_onnx_nodes(
    direction: str, hidden: float, window: str, reduce: str, opset: int
):
    objective, values = objective_of(direction, window, reduce, hidden)
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, values.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, values.shape)],
    )
    name = objective.to_onnx(graph)
    graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 1]))
    imports = [helper.make_opsetid("", opset)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=8)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    written = session.run([name], {"x": values})[0]
    assert written.shape == (len(values), 1)
    expected = objective.score({"y": values})
    np.testing.assert_allclose(written[:, 0], expected, rtol=1e-4, atol=1e-5)


def value_objective(direction: str, own: float) -> ValueObjective:
    raw = {"y": np.array([[own]], np.float32)}
    return ValueObjective.of(raw, Window("y", (1,), ((0, 1),)), "y", Direction(direction))


def column(*values: float) -> dict[str, np.ndarray]:
    return {"y": np.array(values, np.float32)[:, None]}


def test_before_it_is_calibrated_a_value_is_held_against_its_own_size():
    np.testing.assert_allclose(value_objective("raise", 40).probability(column(40, 20)), [1, 0.5])
    np.testing.assert_allclose(value_objective("lower", 40).probability(column(40, 60)), [1, 0.5])
    assert np.isfinite(value_objective("keep", 0).score(column(0, 1))).all()


def test_the_baseline_that_loses_most_of_it_is_nothing_and_the_picture_is_all():
    raised = value_objective("raise", 40).calibrated(column(40), column(38, 10, 20))
    assert raised.keeping == Share(10, 40)
    np.testing.assert_allclose(raised.probability(column(40, 25, 50)), [1, 0.5, 1], rtol=1e-6)
    assert raised.probability(column(10))[0] < 0.02
    lowered = value_objective("lower", 40).calibrated(column(40), column(45, 90))
    assert lowered.keeping == Share(90, 40)
    kept = value_objective("keep", 40).calibrated(column(40), column(45, 20))
    assert kept.keeping == Nearness(40, 10)
    np.testing.assert_allclose(kept.score(column(40, 20, 60)), [0, -4, -4])
    for each in (raised, lowered, kept):
        assert each.warnings(column(40)) == ()
        assert each.family == value_objective("raise", 40).family
        assert hash(each) != hash(value_objective("raise", 40))


def test_a_baseline_that_is_no_number_does_not_count():
    found = value_objective("raise", 40).calibrated(column(40), column(np.nan, 20, -np.inf))
    assert found.keeping == Share(20, 40)


def test_where_no_baseline_is_lower_what_in_the_picture_raises_it_is_asked_and_said():
    found = value_objective("raise", 0.31).calibrated(column(0.31), column(0.52, 0.4))
    assert found.warnings(column(0.31)) == (
        "y is 0.31, and 0.4 to 0.52 where the picture is hidden: as a whole it does not raise it, "
        "and the map shows what in it does; direction='lower' asks what makes it so low",
    )
    p = found.probability(column(0.31, 0.52, 0.73))
    assert (np.diff(p) > 0).all()
    assert p[1] < 0.02
    assert p[2] == pytest.approx(1)


def test_a_baseline_that_is_barely_lower_than_the_picture_does_not_count():
    """Baselines differ by more among each other."""
    found = value_objective("raise", 10).calibrated(column(10), column(9.99, 11, 12))
    assert found.warnings(column(10))


def test_a_value_that_nothing_changes_stays_as_it_is_and_says_so():
    before = value_objective("keep", 5)
    found = before.calibrated(column(5), column(5, 5))
    assert found.keeping == before.keeping
    assert found.warnings(column(5)) == (
        "y is 5, and 5 where the picture is hidden: nothing in it holds it there",
    )


# -- indices and errors


@pytest.mark.parametrize(
    ("index", "spans"),
    [
        (None, ((0, 3), (0, 4), (0, 5))),
        ("1", ((1, 2), (0, 4), (0, 5))),
        ("-1,:,2:4", ((2, 3), (0, 4), (2, 4))),
        (" 0 , 1: , :2 ", ((0, 1), (1, 4), (0, 2))),
        (2, ((2, 3), (0, 4), (0, 5))),
        ((np.int64(0), slice(None), slice(1, -1)), ((0, 1), (0, 4), (1, 4))),
    ],
)
def test_an_index_is_read_strictly_as_numbers_and_ranges(index: Any, spans: Any):
    assert spans_of(index, (3, 4, 5), "y") == spans


@pytest.mark.parametrize(
    ("index", "said"),
    [
        ("x", "'x' is neither a whole number nor a range such as 2:5; output y is [N, 3, 4]"),
        ("", "'' is neither"),
        ("0,1::2", "'1::2' is neither"),
        ("1.5", "'1.5' is neither"),
        (True, "True is neither"),
        ((slice(0, 2, 2),), "slice(0, 2, 2) is neither"),
        ("0,0,0", "index '0,0,0' has 3 places, and output y is [N, 3, 4]: 2 after the batch"),
        ("3", "index '3' takes nothing: output y is [N, 3, 4], whose axis 1 goes from 0 to 2"),
        ("0,-5", "axis 2 goes from 0 to 3"),
        ("2:1", "takes nothing"),
    ],
)
def test_an_index_that_is_none_is_refused_in_one_line(index: Any, said: str):
    with pytest.raises(ibisa.TargetError) as caught:
        spans_of(index, (3, 4), "y")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_direction_and_no_reduction_is_refused():
    with pytest.raises(ibisa.TargetError, match="direction is 'up'; choose from: raise, lower"):
        ValueTarget("up")
    with pytest.raises(ibisa.TargetError, match="reduce is 'min'; choose from: mean, max, sum"):
        ValueTarget(reduce="min")


def test_of_several_outputs_one_must_be_named():
    nodes = [helper.make_node("Relu", ["image"], ["a"]), helper.make_node("Neg", ["a"], ["b"])]
    shape = ["n", 3, SIDE, SIDE]
    explainer = explainer_of(model_of(nodes, {"a": shape, "b": shape}, {}))
    with pytest.raises(ibisa.TargetError, match="several outputs: a, b; say whose value"):
        explainer.explain(picture(9, 9), ValueTarget())
    assert explainer.problem(picture(9, 9), ValueTarget(output="b")).row.probability == 1


def test_a_value_that_is_no_number_is_refused():
    nodes = [
        helper.make_node("Flatten", ["image"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w", "b"], ["sum"], transB=1),
        helper.make_node("Log", ["sum"], ["age"]),
    ]
    constants = {"w": of_squares((0, 0)), "b": np.array([-1], np.float32)}
    explainer = explainer_of(model_of(nodes, {"age": ["n", 1]}, constants))
    with pytest.raises(ibisa.OutputError, match="age is nan for this picture"):
        explainer.explain(picture(9, 9), ValueTarget())


# -- kinds


def facts_of(model: bytes) -> ModelFacts:
    return ModelFacts(explainer_of(model).model, UNIT)


def head(operator: str, outputs: dict[str, int]) -> bytes:
    """Outputs [n, K] by name, the last of them behind an operator."""
    nodes, constants = [helper.make_node("Flatten", ["image"], ["flat"])], {}
    for name, classes in outputs.items():
        constants[f"w_{name}"] = of_squares(*[(1.0, 2.0)] * classes)
        nodes.append(helper.make_node("Gemm", ["flat", f"w_{name}"], [f"{name}_s"], transB=1))
        last = name == list(outputs)[-1]
        nodes.append(helper.make_node(operator if last else "Identity", [f"{name}_s"], [name]))
    return model_of(nodes, {name: ["n", classes] for name, classes in outputs.items()}, constants)


def test_a_regression_is_told_by_the_name_of_a_single_number_or_by_its_metadata():
    kind = find(facts_of(regression((1, 0))))
    assert kind is not None
    assert (kind.outputs(), kind.reason) == (
        ("age",),
        "age is one number, and called as a value is",
    )
    both = find(facts_of(head("Identity", {"yaw": 1, "pitch": 1})))
    assert both is not None
    assert both.outputs() == ("yaw", "pitch")
    said = find(facts_of(regression((1, 0), (0, 1), name="y", task="regression")))
    assert said is not None
    assert said.reason == "its metadata say that its task is regression"


@pytest.mark.parametrize(
    "model",
    [
        regression((1, 0), name="y"),
        regression((1, 0), (0, 1), (1, 1), name="logits"),
        head("Sigmoid", {"quality": 1}),
        head("Softmax", {"age": 1, "gender": 2}),
        head("Identity", {"age": 1, "logits": 4}),
    ],
    ids=["a number", "logits", "a sigmoid", "classes besides", "logits besides"],
)
def test_what_may_be_a_classifier_is_none(model: bytes):
    assert find(facts_of(model)) is None
    assert find_depth(facts_of(model)) is None
    assert explainer_of(model).kind.name == "classifier"
    told = find_told(facts_of(model))
    assert isinstance(told, ValueKind)


def test_a_map_of_depth_is_told_by_its_name_or_its_metadata():
    for name in ("predicted_depth", "disparity"):
        kind = find_depth(facts_of(depth(name)))
        assert kind is not None
        assert kind.outputs() == (name,)
    assert find_depth(facts_of(depth("scores"))) is None
    assert find(facts_of(depth())) is None


def test_words_mean_a_direction_an_output_a_label_or_an_index():
    kind = ValueKind(("yaw", "pitch"), "")
    assert kind.target(None) == ValueTarget("keep", "yaw")
    assert kind.target("raise") == ValueTarget("raise", "yaw")
    assert kind.target("pitch") == ValueTarget("keep", "pitch")
    assert kind.target(0) == ValueTarget("keep", "yaw", index="0")
    with pytest.raises(ibisa.TargetError) as caught:
        kind.target("cat")
    assert str(caught.value) == (
        "target 'cat' is no value of this model; give raise, lower, keep, yaw, pitch, an index "
        "such as 0"
    )


def test_of_many_numbers_the_least_the_median_and_the_greatest_are_told():
    kind = ValueKind(("y",), "")
    found = kind.answers({"y": np.arange(41.0)[None]}, None)  # type: ignore[arg-type]
    assert [(each.caption, each.score) for each in found] == [
        ("least y", 0),
        ("median y", 20),
        ("greatest y", 40),
    ]

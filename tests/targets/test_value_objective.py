"""What is kept of a value: numeric derivatives, ONNX nodes, and what hiding a picture gives."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from ibisa_onnx.targets.retention import Nearness, Share
from ibisa_onnx.targets.value_objective import Direction, ValueObjective
from ibisa_onnx.targets.window import Window, spans_of

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
        "y is 0.31 for the image and 0.4 to 0.52 for the baselines: the whole image does not "
        "raise the value; the map shows which parts do; pass direction='lower' to explain what "
        "makes it so low",
    )
    p = found.probability(column(0.31, 0.52, 0.73))
    assert (np.diff(p) > 0).all()
    assert p[1] < 0.02
    assert p[2] == pytest.approx(1)


def test_a_baseline_that_is_barely_lower_than_the_picture_does_not_count():
    """Baselines differ by more among each other."""
    found = value_objective("raise", 10).calibrated(column(10), column(9.99, 11, 12))
    assert found.warnings(column(10))


@pytest.mark.parametrize("direction", list(Direction))
def test_a_value_that_nothing_changes_stays_as_it_is_and_says_so(direction: str):
    before = value_objective(direction, 5)
    found = before.calibrated(column(5), column(5, 5))
    assert found.keeping == before.keeping
    assert found.warnings(column(5)) == (
        "y is 5 for the image and 5 for the baselines: nothing in the image changes it",
    )

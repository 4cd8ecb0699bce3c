"""Maps are measured where the model sees them, and what cannot be is said before any work."""

from __future__ import annotations

import numpy as np
import pytest

import ibisa_onnx as ibisa
from ibisa_onnx.benchmark.evaluation import (
    MapEvaluator,
    MetricSelection,
    Threshold,
    evaluate,
    subject_of,
)
from ibisa_onnx.errors import MetricError, OptionError
from ibisa_onnx.metrics import DELETION, ENERGY, FAITHFULNESS, INSERTION, LOCALISATION

SIDE, SQUARE = 16, np.s_[4:8, 6:11]  # 20 pixels; of 256 go 10 a step, in 26 steps
PERFECT_DELETION = (1 + 0.5 + 0) / 26 - 0.5 / 26
INVERSE_DELETION = (24 + 16 / 20 + 6 / 20) / 26 - 0.5 / 26  # 236 pixels beside it go first


@pytest.fixture
def perfect() -> np.ndarray:
    map = np.zeros((SIDE, SIDE), np.float32)
    map[SQUARE] = 1
    return map


@pytest.fixture
def problem(open_explainer, picture):
    return open_explainer().problem(picture(size=(2 * SIDE, 2 * SIDE)), 0)


def deletion(problem, map: np.ndarray) -> float:
    return evaluate(subject_of(problem), problem, map, [DELETION])["deletion"]


def test_deletion_of_a_map_at_the_model_s_size_is_exact(problem, perfect):
    assert deletion(problem, perfect) == pytest.approx(PERFECT_DELETION, abs=1e-6)
    assert deletion(problem, 1 - perfect) == pytest.approx(INVERSE_DELETION, abs=1e-6)


def test_a_map_of_the_picture_is_brought_to_the_model_s_size(problem, perfect):
    whole = np.kron(perfect, np.ones((2, 2), np.float32))
    assert deletion(problem, whole) == pytest.approx(PERFECT_DELETION, abs=1e-6)


def test_bytes_measure_as_floats(problem, perfect):
    rng = np.random.default_rng(0)
    for side in (SIDE, 2 * SIDE):
        bytes_ = rng.integers(0, 256, (side, side), np.uint8)
        assert deletion(problem, bytes_) == deletion(problem, bytes_.astype(np.float64))


def test_what_is_deleted_becomes_the_mean_colour(model, picture, perfect):
    explainer = ibisa.Explainer(
        model,
        ibisa.InputSpec((None, 3, SIDE, SIDE)),
        preprocessing="unit",
        activation="probability",
    )
    problem = explainer.problem(picture(), 0)
    grey = float(problem.blank[0, 0, 0])
    assert 0.4 < grey < 0.6
    area = (1 + (1 + grey) / 2 + 25 * grey) / 26 - (1 + grey) / 2 / 26
    assert deletion(problem, perfect) == pytest.approx(area, abs=1e-6)


@pytest.mark.parametrize("shape", [(5, 5), (SIDE, 2 * SIDE), (1, SIDE, SIDE)])
def test_a_map_of_another_size_is_refused(problem, shape):
    with pytest.raises(MetricError, match=r"picture's size \[32, 32\].*input \[16, 16\]"):
        deletion(problem, np.zeros(shape))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_map_that_is_not_finite_is_refused(problem, perfect, value):
    perfect[0, 0] = value
    with pytest.raises(MetricError, match="not finite"):
        deletion(problem, perfect)


@pytest.mark.parametrize(("fixed", "batch"), [(None, 8), (1, 8), (3, 9)])
def test_batches_are_whole_calls_of_a_model_that_takes_no_other(model, picture, fixed, batch):
    spec = ibisa.InputSpec((fixed, 3, SIDE, SIDE))
    explainer = ibisa.Explainer(model, spec, preprocessing="tf", activation="probability")
    assert subject_of(explainer.problem(picture(), 0)).batch == batch


@pytest.mark.parametrize(
    ("metric", "value", "text"),
    [
        (INSERTION, 0.4, ""),
        (INSERTION, 0.5, ""),
        (INSERTION, 0.6, "insertion is 0.5, under 0.6"),
        (DELETION, 0.6, ""),
        (DELETION, 0.5, ""),
        (DELETION, 0.4, "deletion is 0.5, over 0.4"),
    ],
)
def test_a_floor_is_missed_on_the_worse_side_alone(metric, value, text):
    assert Threshold(metric, value).miss({metric.name: 0.5}) == text


def test_a_near_miss_does_not_read_as_reached():
    assert (
        Threshold(INSERTION, 0.6).miss({"insertion": 0.59996}) == "insertion is 0.59996, under 0.6"
    )


def test_a_checklist_has_all_metrics_and_localisation_with_a_box():
    assert MetricSelection().metrics == FAITHFULNESS
    assert MetricSelection(box=(0, 0, 1, 1)).metrics == (*FAITHFULNESS, *LOCALISATION)


def test_a_checklist_of_some_metrics_has_those_of_its_floors_too():
    some = MetricSelection(["Insertion", "average-drop"], [("ENERGY", 0.1)], (0, 0, 1, 1))
    assert [each.name for each in some.metrics] == ["insertion", "average drop", "energy"]
    assert some.misses({"insertion": 0.0, "average drop": 1.0, "energy": 0.05}) == [
        "energy is 0.05, under 0.1"
    ]


@pytest.mark.parametrize(
    ("words", "match"),
    [
        ({"metrics": ["inserted"]}, "'inserted'.*'pointing game'"),
        ({"thresholds": [("inserted", 1.0)]}, "'inserted'"),
        ({"thresholds": [("insertion", float("nan"))]}, "insertion cannot reach nan"),
        ({"thresholds": [("pointing game", 1.0)]}, "pointing game needs.*box"),
        ({"metrics": ["box ratio"]}, "box ratio needs.*box"),
    ],
)
def test_metrics_that_cannot_be_measured_is_refused(words, match):
    with pytest.raises(OptionError, match=match):
        MetricSelection(**words)


def test_localisation_is_measured_on_the_picture(problem, perfect):
    box = (12, 8, 22, 16)  # the square, at twice the model's size
    evaluator = MapEvaluator(problem, MetricSelection(["energy", "box ratio"], box=box))
    whole = np.kron(perfect, np.ones((2, 2), np.float32))
    assert evaluator(whole) == {"energy": 1.0, "box ratio": 1.0}
    assert evaluator(1 - whole) == {"energy": 0.0, "box ratio": 0.0}
    assert evaluator(perfect)["energy"] > 0.7  # enlarged, it is soft at its border


def test_localisation_alone_asks_the_model_nothing(problem, perfect, model):
    before = model.images
    MapEvaluator(problem, MetricSelection(["energy"], box=(0, 0, 4, 4)))(perfect)
    assert model.images == before


def test_both_kinds_are_measured_together(problem, perfect):
    checklist = MetricSelection(["deletion", ENERGY.name], box=(12, 8, 22, 16))
    assert list(MapEvaluator(problem, checklist)(perfect)) == ["deletion", "energy"]


@pytest.mark.parametrize("box", [(99, 99, 120, 120), (0, 0, 32, 32), (5, 5, 5, 9)])
def test_a_box_that_is_no_object_is_refused_at_once(problem, box):
    with pytest.raises(MetricError):
        MapEvaluator(problem, MetricSelection(box=box))


def test_an_examiner_checks_a_map_s_size_without_measuring(problem, model):
    evaluator, before = MapEvaluator(problem, MetricSelection()), model.images
    with pytest.raises(MetricError, match="picture's size"):
        evaluator.check(np.zeros((5, 5)))
    assert model.images == before

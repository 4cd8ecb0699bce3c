"""Maps are measured where the model sees them, and what cannot be is said before any work."""

from __future__ import annotations

import numpy as np
import pytest

import ibisa_onnx as ibisa
from ibisa_onnx.benchmark.answers import calibrated
from ibisa_onnx.benchmark.evaluation import (
    USUAL,
    MapEvaluator,
    MetricSelection,
    Threshold,
    check_measurable,
    evaluate,
    stability_of,
    subject_of,
)
from ibisa_onnx.benchmark.regions import PictureRegion, box_of_picture, own_region
from ibisa_onnx.errors import MetricError, OptionError
from ibisa_onnx.metrics import (
    BOX_METRICS,
    DELETION,
    ENERGY,
    INSERTION,
    LOCALISATION,
    POINTING_GAME,
    STABILITIES,
)
from ibisa_onnx.targets.base import FixedTarget
from ibisa_onnx.targets.detection import BoxTarget
from ibisa_onnx.targets.segmentation import RegionTarget
from ibisa_onnx.targets.value import ValueTarget

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
    with pytest.raises(MetricError, match=r"image's size \[32, 32\].*input \[16, 16\]"):
        deletion(problem, np.zeros(shape))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_map_that_is_not_finite_is_refused(problem, perfect, value):
    perfect[0, 0] = value
    with pytest.raises(MetricError, match="NaN or infinite"):
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


@pytest.mark.parametrize(("value", "missed"), [(0.4, True), (0.5, False), (0.6, False)])
@pytest.mark.parametrize("metric", [INSERTION, DELETION])
def test_a_ceiling_is_missed_above_it_whichever_side_is_better(metric, value, missed):
    text = Threshold(metric, value, over=True).miss({metric.name: 0.5})
    assert text == (f"{metric.name} is 0.5, over 0.4" if missed else "")


def of(selection: MetricSelection) -> tuple[str, ...]:
    chosen = (*selection.faithfulness, *selection.boxes)
    chosen += (*selection.stability, *selection.localisation)
    return tuple(each.name for each in chosen)


def test_the_usual_metrics_are_those_that_can_be_measured():
    usual, stable, located = (
        tuple(each.name for each in group) for group in (USUAL, STABILITIES, LOCALISATION)
    )
    assert of(MetricSelection(made=False)) == usual
    assert of(MetricSelection()) == (*usual, *stable)
    assert of(MetricSelection(located=True)) == (*usual, *stable, *located)
    boxes = tuple(each.name for each in BOX_METRICS)
    assert of(MetricSelection(boxed=True)) == (*usual, *boxes, *stable)


def test_a_checklist_of_some_metrics_has_those_of_its_floors_too():
    some = MetricSelection(
        ["Insertion", "lerf-morf-mean"], [("ENERGY", 0.1)], [("deletion", 0.2)], located=True
    )
    assert of(some) == ("insertion", "deletion", "LeRF - MoRF (mean)", "energy")
    scores = {"insertion": 0.0, "LeRF - MoRF (mean)": 1.0, "energy": 0.05, "deletion": 0.3}
    assert some.misses(scores) == ["energy is 0.05, under 0.1", "deletion is 0.3, over 0.2"]


def test_thresholds_of_regions_hold_for_each():
    selection = MetricSelection(["insertion"], [("only", 0.5)], [("without", 0.5)], located=True)
    regions = {"a": {"without": 0.6, "only": 0.7}, "b": {"without": 0.1, "only": 0.2}}
    said = ["b: only is 0.2, under 0.5", "a: without is 0.6, over 0.5"]
    assert selection.misses({"insertion": 0.0}, regions) == said


@pytest.mark.parametrize(
    ("words", "match"),
    [
        ({"metrics": ["inserted"]}, "'inserted'.*'pointing game'.*'insertion .blur, mean"),
        ({"under": [("inserted", 1.0)]}, "'inserted'"),
        (
            {"over": [("insertion", float("nan"))]},
            "the threshold of insertion is nan; pass a finite",
        ),
        ({"under": [("pointing game", 1.0)]}, "pointing game requires the object's location.*box"),
        ({"over": [("without", 1.0)]}, "without requires the object's location.*box or a mask"),
        ({"metrics": ["box ratio"]}, "box ratio requires the object's location.*box"),
        ({"metrics": ["stability"], "made": False}, "stability is a metric of a method"),
        ({"under": [("insertion (odam)", 0.5)]}, "insertion .ODAM. requires a detector's box"),
    ],
)
def test_metrics_that_cannot_be_measured_is_refused(words, match):
    with pytest.raises(OptionError, match=match):
        MetricSelection(**words)


BOX = (12, 8, 22, 16)  # the square, at twice the model's size


def evaluator_of(problem, metrics=(), box=BOX) -> MapEvaluator:
    region = box_of_picture(box, problem.row.geometry.picture)
    return MapEvaluator(problem, MetricSelection(metrics, located=True), (region,))


def test_localisation_is_measured_on_the_picture(problem, perfect):
    evaluator = evaluator_of(problem, ["energy", "box ratio"])
    whole = np.kron(perfect, np.ones((2, 2), np.float32))
    assert evaluator(whole) == {"energy": 1.0, "box ratio": 1.0}
    assert evaluator(1 - whole) == {"energy": 0.0, "box ratio": 0.0}
    assert evaluator(perfect)["energy"] > 0.7  # enlarged, it is soft at its border


def test_localisation_alone_asks_the_model_nothing(problem, perfect, model):
    before = model.images
    evaluator_of(problem, ["energy"])(perfect)
    assert model.images == before


def test_both_kinds_are_measured_together(problem, perfect):
    assert list(evaluator_of(problem, ["deletion", ENERGY.name])(perfect)) == ["deletion", "energy"]


def test_several_regions_are_one_object(problem, perfect):
    halves = ((12, 8, 22, 12), (12, 12, 22, 16))
    regions = tuple(box_of_picture(box, (32, 32)) for box in halves)
    evaluator = MapEvaluator(problem, MetricSelection(["energy"], located=True), regions)
    whole = np.kron(perfect, np.ones((2, 2), np.float32))
    assert evaluator(whole) == {"energy": 1.0}
    np.testing.assert_array_equal(evaluator.region_map, perfect)
    assert [each.share for each in evaluator.region_figures(whole)] == [0.5, 0.5]


def test_the_model_says_what_is_left_without_a_region_and_of_it_alone(problem, perfect):
    (figures,) = evaluator_of(problem).region_figures(perfect)
    assert figures.name == "box 12,8,22,16"
    assert figures.test.whole == pytest.approx(1)
    assert set(figures.test.only.values()) == {1.0}  # the square is all that the model looks at
    # The picture is white but for a pixel: no colour of its own hides the square.
    assert figures.test.without["mean"] == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(
    "box", [(99, 99, 120, 120), (0, 0, 32, 32), (5, 5, 5, 9), (20, 20, 33, 30), (-1, 2, 5, 5)]
)
def test_a_box_that_is_no_part_of_the_picture_is_refused(problem, box):
    with pytest.raises(MetricError, match=r"box|whole"):
        evaluator_of(problem, box=box)


def test_a_region_that_is_cropped_away_is_refused(open_explainer, picture):
    explainer = open_explainer()
    wide = ibisa.Explainer(
        explainer.model,
        preprocessing="tf",
        overrides={"resize": "shortest"},
        activation="probability",
    ).problem(picture(size=(SIDE, 3 * SIDE)), 0)
    with pytest.raises(MetricError, match="is not visible to the model"):
        evaluator_of(wide, box=(0, 0, 8, 8))
    assert evaluator_of(wide, box=(8, 0, 24, 8)).warnings == [
        "box 8,0,24,8: preprocessing crops away 50% of it"
    ]
    assert evaluator_of(wide, box=(16, 0, 24, 8)).warnings == []
    middle = PictureRegion("mask m.png", np.arange(3 * SIDE) // SIDE == np.ones((SIDE, 1)))
    with pytest.raises(MetricError, match=r"m\.png covers the model's whole input"):
        MapEvaluator(wide, MetricSelection(located=True), (middle,))


def test_stability_explains_variants_of_what_the_model_sees(open_explainer, picture, planted):
    explainer = open_explainer()
    problem = explainer.problem(picture(size=(2 * SIDE, 2 * SIDE)), 0)
    found = stability_of(explainer, problem, method=planted())
    assert list(found) == [each.name for each in STABILITIES]
    for name in ("noise", "JPEG"):
        assert found[f"stability ({name})"] == pytest.approx(1)  # the same map each time
    assert found["stability (shift)"] < 0.95  # which does not move with the picture
    assert found["stability"] == pytest.approx((2 + found["stability (shift)"]) / 3)


def test_an_examiner_checks_a_map_s_size_without_measuring(problem, model):
    evaluator, before = MapEvaluator(problem, MetricSelection()), model.images
    with pytest.raises(MetricError, match="image's size"):
        evaluator.check(np.zeros((5, 5)))
    assert model.images == before


# -- boxes, regions and values


@pytest.fixture
def red(detector, squares):
    """The problem of a red square among others: 230 of 255 in row 1, column 2."""
    return detector.problem(squares("a.png", (1, 2, 0), (3, 0, 1), level=230), BoxTarget(label=0))


def on_the_square() -> np.ndarray:
    map = np.zeros((32, 32), np.float32)
    map[8:16, 16:24] = 1
    return map


def test_a_box_is_measured_by_what_is_left_of_the_detection(red):
    sure = 230 / 255
    perfect = evaluate(subject_of(red), red, on_the_square(), BOX_METRICS)
    inverse = evaluate(subject_of(red), red, 1 - on_the_square(), BOX_METRICS)
    assert list(perfect) == [each.name for each in BOX_METRICS]
    for metric in BOX_METRICS:
        better = perfect[metric.name] - inverse[metric.name]
        assert better > 0.3 if metric.higher_is_better else better < -0.3
    # By ODAM 10, 20 ... 64 of 64 red pixels come into the usual grey, which speaks against red.
    grey = float(red.blank[0, 0, 0] - red.blank[1:].sum())
    shares = [min(n, 64) / 64 for n in range(10, 101, 10)]
    left = [0, *(max(0.0, share * sure + (1 - share) * grey) for share in shares)]
    assert perfect["insertion (ODAM)"] == pytest.approx((sum(left) - left[-1] / 2) / 10, abs=1e-5)
    assert inverse["deletion (ODAM)"] == pytest.approx(1, abs=1e-5)


def test_each_map_of_a_box_costs_what_its_curves_do(red):
    evaluator = MapEvaluator(
        red, MetricSelection(["insertion (odam)", "deletion (odam)"], boxed=True)
    )
    before = red.passes.forward
    evaluator(on_the_square())
    assert red.passes.forward - before == 10 + 11 + 2  # and whether images of a batch mix, if asked


def test_a_box_is_its_own_region(red):
    region = own_region(red)
    assert region is not None
    assert region.name == "its box"
    np.testing.assert_array_equal(region.pixels, on_the_square() > 0)
    metrics = (ENERGY, POINTING_GAME)
    assert set(evaluate(subject_of(red), red, on_the_square(), metrics).values()) == {1.0}
    assert evaluate(subject_of(red), red, 1 - on_the_square(), metrics)["energy"] == 0


def test_a_class_has_no_region_and_no_box(problem, perfect):
    assert own_region(problem) is None
    for metric, said in (
        (BOX_METRICS[0], "a detector's box"),
        (ENERGY, "requires the object's location"),
    ):
        with pytest.raises(OptionError, match=said):
            check_measurable(problem, [DELETION, metric])
        with pytest.raises(MetricError, match=said):
            evaluate(subject_of(problem), problem, perfect, [metric])
    check_measurable(problem, [DELETION, *STABILITIES])


def test_an_answer_that_was_bound_is_explained_by_any_method(detector, red, squares):
    again = FixedTarget(red.row.objective)
    found = detector.explain(squares("a.png", (1, 2, 0)), again, method="drise")
    assert found.target.label == "red"
    assert found.map[8:16, 16:24].mean() > 3 * found.map.mean()


def segmenter() -> bytes:
    """`scores` [n, 2, 16, 16]: a half of 16 pixels, and how red each place of 2 pixels is."""
    from onnx import TensorProto, helper, numpy_helper

    kernel, bias = np.zeros((2, 3, 2, 2), np.float32), np.array([0, -6], np.float32)
    kernel[1, 0] = 3
    graph = helper.make_graph(
        [helper.make_node("Conv", ["image", "kernel", "bias"], ["scores"], strides=[2, 2])],
        "segmenter",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 32, 32])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 2, 16, 16])],
        [numpy_helper.from_array(kernel, "kernel"), numpy_helper.from_array(bias, "bias")],
    )
    opsets = [helper.make_opsetid("", 13)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()


def test_a_segmenter_s_region_is_its_own(squares):
    explainer = ibisa.Explainer(
        segmenter(), preprocessing="unit", labels=("background", "red"), kind="segmenter", threads=1
    )
    picture = squares("a.png", (1, 1, 0), (2, 2, 0), level=255)  # two squares, corner to corner
    problem = explainer.problem(picture, RegionTarget("red"))
    region = own_region(problem)
    assert region is not None
    assert region.name == "its region"
    expected = np.zeros((32, 32), bool)
    expected[8:16, 8:16] = expected[16:24, 16:24] = True
    np.testing.assert_array_equal(region.pixels, expected)
    assert own_region(explainer.problem(squares("b.png", level=0), None)) is None  # all of it


def test_a_value_is_measured_between_where_the_picture_is_hidden_and_the_picture(squares):
    def brightness(images: np.ndarray) -> np.ndarray:
        return 100 + images[:, 0, 8:16, 16:24].mean((1, 2))[:, None]

    explainer = ibisa.Explainer(
        brightness,
        ibisa.InputSpec((None, 3, 32, 32)),
        preprocessing="unit",
        kind="regression",
        options=ibisa.Options(baseline="mean"),
    )
    asked = explainer.problem(squares("a.png", (1, 2, 0), level=255), ValueTarget("raise"))
    problem = calibrated(asked)
    assert problem.passes.forward == 5 + 2  # what hides, and whether images of a batch mix
    assert problem.row.probability == pytest.approx(1)
    found = evaluate(subject_of(problem), problem, on_the_square(), [INSERTION, DELETION])
    worse = evaluate(subject_of(problem), problem, 1 - on_the_square(), [INSERTION, DELETION])
    assert found["insertion"] > worse["insertion"] + 0.3
    assert found["deletion"] < worse["deletion"] - 0.2
    flat = evaluate(subject_of(asked), asked, on_the_square(), [DELETION])
    assert flat["deletion"] > 0.9 > 0.6 > found["deletion"]  # between 100 and 101


def test_a_probability_is_measured_as_it_is_and_asked_nothing(problem, model):
    before = model.images
    assert calibrated(problem) is problem
    assert model.images == before

"""Text recognisers: a planted one that reads colours, what bad requests get, and formats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import ibisa_onnx as ibisa
from ibisa_onnx.targets.arguments import PointTarget
from ibisa_onnx.targets.contrast import ContrastTarget
from ibisa_onnx.targets.ctc import STEPS, fit_charset
from ibisa_onnx.targets.detection import BoxTarget
from ibisa_onnx.targets.sequence import (
    RecogniserKind,
    TextTarget,
    decode,
)

HIGH, WIDE, STEP = 16, 96, 8
COUNT = WIDE // STEP
GAIN, BIAS = 24.0, 18.0
FORMS = ("logits", "softmax", "log-softmax", "shares", "argmax")
OFF, RED, GREEN, BLUE = (0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255)
LABELS = ("r", "g", "b")


def recogniser(
    form: str = "logits",
    *,
    time_major: bool = False,
    blank_last: bool = False,
    metadata: dict[str, str] | None = None,
    declared: int = 3,
    opset: int = 11,
) -> onnx.ModelProto:
    """Reads red, green and blue at each of 12 steps: 4 classes, of which black is the blank."""
    kernel = np.zeros((4, 3, HIGH, STEP), np.float32)
    bias = np.zeros(4, np.float32)
    blank = 3 if blank_last else 0
    bias[blank] = BIAS
    for channel in range(3):
        kernel[channel if blank_last else channel + 1, channel] = GAIN / (HIGH * STEP)
    nodes = [
        helper.make_node("Conv", ["image", "kernel", "bias"], ["row"], strides=[1, STEP]),
        helper.make_node("Squeeze", ["row"], ["line"], axes=[2]),  # [n, 4, 12]
        helper.make_node(
            "Transpose", ["line"], ["steps"], perm=[2, 0, 1] if time_major else [0, 2, 1]
        ),
        *{
            "logits": [helper.make_node("Identity", ["steps"], ["scores"])],
            "softmax": [helper.make_node("Softmax", ["steps"], ["scores"], axis=2)],
            "log-softmax": [helper.make_node("LogSoftmax", ["steps"], ["scores"], axis=2)],
            "shares": [  # a softmax in other words
                helper.make_node("Exp", ["steps"], ["powers"]),
                helper.make_node("ReduceSum", ["powers"], ["sum"], axes=[2]),
                helper.make_node("Div", ["powers", "sum"], ["scores"]),
            ],
            "argmax": [helper.make_node("ArgMax", ["steps"], ["scores"], axis=2, keepdims=0)],
        }[form],
    ]
    whole = form == "argmax"
    shape: list[Any] = [COUNT, "n"] if time_major else ["n", COUNT]
    shape = shape if whole else [*shape, 4][:declared]
    elem = TensorProto.INT64 if whole else TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "recogniser",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, HIGH, WIDE])],
        [helper.make_tensor_value_info("scores", elem, shape)],
        [numpy_helper.from_array(kernel, "kernel"), numpy_helper.from_array(bias, "bias")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    helper.set_model_props(model, metadata or {})
    return model


def explainer(model: onnx.ModelProto | None = None, **given: Any) -> ibisa.Explainer:
    model = recogniser() if model is None else model
    values = {"preprocessing": "unit", "overrides": {"resize": "stretch"}, "threads": 1} | given
    values.setdefault("options", ibisa.Options(baseline="black"))
    return ibisa.Explainer(model.SerializeToString(), **values)


def line(*steps: tuple[int, int, int], scale: int = 1) -> np.ndarray:
    """A picture whose steps have these colours, the others none."""
    pixels = np.zeros((HIGH * scale, WIDE * scale, 3), np.uint8)
    for place, colour in enumerate(steps):
        pixels[:, place * STEP * scale : (place + 1) * STEP * scale] = colour
    return pixels


#: steps 1, 3, 5 to 6, 8 and 10
RGBBR = line(OFF, RED, OFF, GREEN, OFF, BLUE, BLUE, OFF, BLUE, OFF, RED)


def kind_of(explainer: ibisa.Explainer) -> RecogniserKind:
    kind = explainer.kind
    assert isinstance(kind, RecogniserKind)
    return kind


# -- what is read


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("time_major", [False, True])
@pytest.mark.parametrize("blank_last", [False, True])
def test_every_form_of_scores_is_read_alike(form: str, time_major: bool, blank_last: bool):
    model = recogniser(form, time_major=time_major, blank_last=blank_last)
    found = explainer(model, labels=LABELS)
    kind = kind_of(found)
    assert (kind.name, kind.scores.time_major) == ("text recogniser", time_major)
    assert kind.blank.index == (3 if blank_last else 0)
    assert not kind.warnings
    text, *characters = found.answers(RGBBR)
    assert [each.number for each in (text, *characters)] == [None, 1, 2, 3, 4, 5]
    assert text.caption == "rgbbr"
    assert [each.label for each in characters] == list("rgbbr")
    odds = np.exp([GAIN, BIAS, 0, 0])
    assert text.score == pytest.approx(odds[0] / odds.sum(), rel=1e-5)
    assert [each.details["steps"] for each in characters][2:4] == [[5, 7], [8, 9]]


def test_where_characters_are_is_said_in_pixels_of_the_picture():
    big = np.kron(RGBBR, np.ones((3, 3, 1), np.uint8))
    whole, *characters = explainer(labels=LABELS).answers(big)
    for each, middle in zip(characters, (1.5, 3.5, 6, 8.5, 10.5), strict=True):
        assert each.box is not None
        left, top, right, bottom = each.box
        assert (top, bottom) == (0, HIGH * 3)
        assert left < middle * STEP * 3 < right
        assert right - left < 4 * STEP * 3
    assert whole.box is not None
    assert whole.box[0] == characters[0].box[0]
    assert whole.box[2] == characters[-1].box[2]


def test_a_run_is_one_character_and_a_blank_parts_two():
    steps = np.log(np.full((7, 3), 0.1))
    for step, column in enumerate((1, 1, 0, 1, 2, 2, 0)):
        steps[step, column] = np.log(0.8)
    found = decode(steps, 0, ("-", "a", "b"))
    assert "".join(each.text for each in found) == "aab"
    assert [(each.start, each.stop) for each in found] == [(0, 2), (3, 4), (4, 6)]
    assert found[0].score == pytest.approx(0.8)
    assert decode(steps, 1, None)[0].text == "#0"
    assert decode(steps[2:3], 0, None) == ()


def test_each_character_reaches_to_the_next_but_not_across_a_gap():
    steps = np.log(np.full((40, 3), 0.1))
    steps[:, 0] = np.log(0.8)
    for step in (4, 7, 10, 30):
        steps[step, 1] = np.log(0.9)
    first, second, third, last = (each.sides for each in decode(steps, 0, None))
    np.testing.assert_allclose(np.array([first, second]) * 40, [[3, 6], [6, 9]])
    np.testing.assert_allclose(third[1] * 40, 10.5 + 2.25)
    np.testing.assert_allclose(np.array(last) * 40, [30.5 - 2.25, 32])
    alone = decode(steps[3:6], 0, None)[0].sides
    assert alone == (0, 1)


# -- how it is explained


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("time_major", [False, True])
def test_the_map_of_a_character_falls_on_it(form: str, time_major: bool):
    found = explainer(recogniser(form, time_major=time_major), labels=LABELS)
    third = found.explain(RGBBR, TextTarget(3))
    assert third.certificate.gradient == "exact"
    assert (third.target.kind, third.target.label, third.target.index) == ("character", "b", 3)
    assert third.target.caption == 'character 3 "b" of "rgbbr"'
    assert third.target.output == STEPS
    assert third.map[:, 4 * STEP : 8 * STEP].sum() > 0.8 * third.map.sum()


def test_the_map_of_the_text_falls_on_all_its_characters():
    found = explainer(labels=LABELS).explain(RGBBR)
    assert (found.target.kind, found.target.caption) == ("text", 'text "rgbbr"')
    seen = RGBBR.any((0, 2))
    assert found.map[:, seen].mean() > 3 * found.map[:, ~seen].mean()
    for step in (1, 3, 8, 10):
        on_it = found.map[:, step * STEP : (step + 1) * STEP].mean()
        assert on_it > 2 * found.map[:, 11 * STEP :].mean()


def test_a_part_of_the_text_is_explained_by_how_it_is_spelt():
    found = explainer(labels=LABELS)
    part = found.explain(RGBBR, "gb")
    assert part.target.caption == 'text "gb" of "rgbbr"'
    assert part.map[:, 2 * STEP : 8 * STEP].sum() > 0.7 * part.map.sum()
    assert found.explain(RGBBR, "g").target == found.explain(RGBBR, 2).target
    assert found.explain(RGBBR, 2).target.details["number"] == 2


def test_a_point_means_the_character_there():
    found = explainer(labels=LABELS)
    target = found.explain(RGBBR, PointTarget((8.5 * STEP, 4))).target
    assert target.caption == 'character 4 "b" of "rgbbr"'
    with pytest.raises(ibisa.TargetError, match=r'no character was read at 95,4; .*"rgbbr", 5 ch'):
        found.explain(RGBBR, TextTarget(at=(95, 4)))


def test_all_characters_are_explained_together_as_alone():
    found = explainer(labels=LABELS)
    several = found.explain_all(RGBBR, TextTarget(every=True))
    assert [each.target.label for each in several] == list("rgbbr")
    alone = found.explain(RGBBR, TextTarget(4))
    assert several[3].target == alone.target
    np.testing.assert_allclose(several[3].map, alone.map, atol=1e-4)


def test_the_record_comes_back_from_disk(tmp_path: Path):
    for number, target in enumerate((None, 2, "gb")):
        found = explainer(labels=LABELS).explain(RGBBR, target)
        found.save(tmp_path / str(number))
        assert ibisa.Explanation.load(tmp_path / str(number)).target == found.target


def test_every_method_explains_it():
    found = explainer(labels=LABELS)
    for method in ("rise", "occlusion"):
        assert found.explain(RGBBR, TextTarget(2), method=method).method == method


# -- the objectives


def test_the_score_of_a_text_is_0_for_its_picture_and_less_where_some_is_lost():
    found = explainer(labels=LABELS).problem(RGBBR)
    row, lost = found.row, explainer(labels=LABELS).problem(line(OFF, RED)).row.answer
    assert row.objective.score(row.answer)[0] == pytest.approx(0, abs=1e-9)
    assert row.objective.score(lost)[0] < -1


def test_a_character_may_shift_by_a_step_and_is_kept():
    found = explainer(labels=LABELS).problem(RGBBR, TextTarget(2)).row.objective
    shifted = line(OFF, RED, OFF, OFF, GREEN)
    model = explainer(labels=LABELS)
    kept, lost = (model.problem(each).row.answer for each in (shifted, line(OFF, RED)))
    assert found.probability(kept)[0] > 0.99
    assert found.score(lost)[0] < -1


# -- charsets


@pytest.mark.parametrize(
    ("labels", "blank", "names", "is_blank"),
    [
        (["a", "b"], 0, ("blank", "a", "b", " "), 0),
        (["a", "b"], 3, ("a", "b", " ", "blank"), 3),
        (["a", "b", "c"], 0, ("blank", "a", "b", "c"), 0),
        (["a", "b", "c"], 3, ("a", "b", "c", "blank"), 3),
        (["a", "b", "c", "d"], 3, ("a", "b", "c", "d"), 3),
        (["a", "<blank>", "", "d"], 3, ("a", "<blank>", " ", "d"), 1),
        (["", "b", "c", "d"], 3, (" ", "b", "c", "d"), 0),
    ],
)
def test_a_charset_may_leave_out_the_blank_and_the_space(
    labels: list[str], blank: int, names: tuple[str, ...], is_blank: int
):
    assert fit_charset(labels, 4, blank) == (names, is_blank)
    assert fit_charset(["a"], 4, 0) is None


def test_the_files_own_charset_is_read_and_the_users_goes_before_it():
    model = recogniser(metadata={"character": "x\ny\nz"})
    assert explainer(model).answers(RGBBR)[0].caption == "xyzzx"
    assert explainer(model, labels=LABELS).answers(RGBBR)[0].caption == "rgbbr"


def test_without_a_charset_characters_have_numbers():
    found = explainer()
    whole, first, *_ = found.answers(RGBBR)
    assert whole.caption == "#1#2#3#3#1"
    assert (first.caption, first.label, first.index) == ("#1", None, 1)
    target = found.explain(RGBBR, TextTarget(2)).target
    assert (target.caption, target.label) == ('character 2 "#2" of "#1#2#3#3#1"', None)


def test_a_charset_of_the_file_that_does_not_fit_is_warned_of_and_a_users_refused():
    found = explainer(recogniser(metadata={"character": "x"}))
    assert "the file names 1 characters, which do not match its 4 classes" in found.kind.warnings[0]
    assert found.answers(RGBBR)[0].caption == "#1#2#3#3#1"
    with pytest.raises(ibisa.TargetError, match="there are 5 labels for the model's 4 classes"):
        explainer(labels=list("abcde")).answers(RGBBR)


def test_labels_say_which_class_is_the_blank():
    """With green as the blank, the black that is between is read."""
    found = explainer(labels=["o", "r", "blank", "b"])
    assert found.answers(RGBBR)[0].caption == "orooboboro"


# -- what is refused, and what is told apart


@pytest.mark.parametrize(
    ("target", "said"),
    [
        (TextTarget(6), 'there is no character 6; the text is "rgbbr", 5 characters'),
        (TextTarget(0), "there is no character 0; "),
        (TextTarget(True), "there is no character True; "),
        ("rb", '"rb" was not read; the text is "rgbbr", 5 characters'),
        ("", '"" was not read; '),
        (BoxTarget(1), "the model's kind is text recogniser"),
    ],
)
def test_what_was_not_read_is_refused(target: Any, said: str):
    with pytest.raises(ibisa.TargetError, match=said):
        explainer(labels=LABELS).explain(RGBBR, target)


def test_a_picture_without_text_is_refused():
    found = explainer(labels=LABELS)
    assert found.answers(line()) == []
    with pytest.raises(ibisa.TargetError, match="no text was read: all 12 steps are blank"):
        found.explain(line())


def test_another_character_in_the_same_place_is_the_rival():
    reader = explainer(labels=LABELS)
    row = reader.problem(RGBBR, ContrastTarget(TextTarget(2), "r")).row
    first, second = row.objective.first, row.objective.second
    assert (first.label, second.label) == ("g", "r")
    assert first.place.steps == second.place.steps
    assert first.place.column != second.place.column
    caption = row.objective.describe()["caption"]
    assert caption == 'character 2 "g" of "rgbbr" rather than r'
    assert row.probability > 0.99
    nameless = explainer()
    assert nameless.problem(RGBBR, ContrastTarget(TextTarget(2), 1)).row.probability > 0.99
    for model, rival, said in (
        (reader, "x", "there is no character 'x': the charset does not contain it"),
        (reader, "g", "target and versus are the same"),
        (
            nameless,
            9,
            r"there is no character 9: the charset is unknown; pass a class index \(0 to 3",
        ),
    ):
        with pytest.raises(ibisa.TargetError, match=said):
            model.explain(RGBBR, ContrastTarget(TextTarget(2), rival))


def test_scores_that_are_nan_are_not_taken_for_blanks(with_nan: Any):
    data = with_nan(recogniser().SerializeToString(), "scores")
    reader = explainer(onnx.load_from_string(data), labels=LABELS)
    assert reader.answers(RGBBR)[0].caption == "rgbbr"
    for ask in (reader.answers, reader.explain):
        with pytest.raises(ibisa.OutputError, match="scores has NaN values for this image"):
            ask(line())


def test_other_models_read_no_text():
    from ibisa_onnx.demo import model_path, scene_path

    with pytest.raises(ibisa.TargetError, match="kind is classifier, which has no text"):
        ibisa.Explainer(model_path(), threads=1).explain(scene_path(), TextTarget())


@pytest.mark.parametrize("target", [TextTarget(), TextTarget(2), TextTarget(part="gbb")])
def test_what_is_read_with_certainty_keeps_its_exact_gradient(target: TextTarget):
    """Every character has a probability above .99, so that log p hardly changes."""
    blurred = ibisa.Options(baseline="blur")  # under which characters are read all the same
    found = explainer(labels=LABELS, options=blurred).explain(RGBBR, target)
    assert found.target.probability > 0.99
    assert found.certificate.gradient == "exact"
    assert found.certificate.gradient_error < 0.25


@pytest.mark.parametrize("time_major", [False, True])
def test_a_shape_that_is_declared_wrongly_is_not_believed(time_major: bool):
    """As in files whose last Reshape makes three axes of two."""
    model = recogniser(time_major=time_major)
    del model.graph.output[0].type.tensor_type.shape.dim[2]
    found = explainer(model, labels=LABELS)
    assert found.answers(RGBBR)[0].caption == "rgbbr"
    assert found.explain(RGBBR, TextTarget(1)).certificate.gradient == "exact"


def test_a_whole_line_is_seen_where_nobody_says_how():
    found = explainer(preprocessing=None, overrides=None)
    assert found.preprocessing.spec.resize == "stretch"
    assert kind_of(found).asks[:2] == ("TextTarget()", "TextTarget(3)")

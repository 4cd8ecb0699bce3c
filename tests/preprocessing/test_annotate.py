"""What is written into a model's metadata: for this package, and in the words of others."""

from __future__ import annotations

import ast
import json

import onnx
import pytest
from onnx import TensorProto, helper

from ibisa_onnx.errors import IbisaError, TargetError
from ibisa_onnx.preprocessing.annotate import annotate, written_keys
from ibisa_onnx.preprocessing.spec import PRESETS, Preprocessing

SPEC = Preprocessing((224, 224), shorter_side=256, scale=1 / 255, mean=(0.1, 0.2, 0.3), std=(0.5,))
LABELS = ("tench, Tinca tinca", "it's", 'a "b"', "kite")


def _model(metadata=None, classes=4):
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 224, 224])
    scores = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", classes])
    node = helper.make_node("Identity", ["x"], ["y"])
    proto = helper.make_model(helper.make_graph([node], "g", [image], [scores]))
    helper.set_model_props(proto, metadata or {})
    return proto


def _metadata(proto):
    pairs = [(each.key, each.value) for each in proto.metadata_props]
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


def _said(preprocessing=None, labels=None, metadata=None):
    proto = _model(metadata)
    annotate(proto, preprocessing, labels)
    return _metadata(proto)


def _preset(name, **fields):
    values = PRESETS[name]
    return Preprocessing(
        (224, 224),
        channel_order=values.channel_order,
        scale=values.scale,
        mean=values.mean,
        std=values.std,
        **fields,
    )


def test_the_own_key_holds_all_of_it():
    content = json.loads(_said(SPEC, LABELS)["ibisa"])
    assert content["version"] == 1
    assert Preprocessing.from_dict(content["preprocessing"]) == SPEC
    assert content["labels"] == list(LABELS)


@pytest.mark.parametrize(
    ("fields", "shorter"),
    [
        ({}, 224),
        ({"shorter_side": 240}, 240),
        ({"resize": "stretch-crop", "shorter_side": 240}, 240),
        ({"resize": "stretch", "shorter_side": 9}, None),
    ],
)
def test_the_shorter_side_is_said_where_it_counts(fields, shorter):
    content = json.loads(_said(_preset("tf", **fields))["ibisa"])
    assert content["preprocessing"].get("shorter_side") == shorter


@pytest.mark.parametrize(
    ("preset", "range_"),
    [
        ("raw", "NominalRange_0_255"),
        ("unit", "Normalized_0_1"),
        ("tf", "Normalized_1_1"),
        ("imagenet", None),
        ("caffe", None),
    ],
)
def test_onnx_keys_only_where_they_say_the_truth(preset, range_):
    said = _said(_preset(preset))
    assert said.get("Image.NominalPixelRange") == range_
    assert said["Image.BitmapPixelFormat"] == ("Bgr8" if preset == "caffe" else "Rgb8")
    assert said["Image.ColorSpaceGamma"] == "SRGB"


def test_a_range_is_told_by_its_values_not_by_how_they_are_written():
    half = Preprocessing((8, 8), scale=1 / 255, mean=(0.5, 0.5, 0.5), std=(0.5,))
    assert _said(half)["Image.NominalPixelRange"] == "Normalized_1_1"


def test_names_as_a_python_literal_and_never_an_author():
    said = _said(None, LABELS)
    assert ast.literal_eval(said["names"]) == dict(enumerate(LABELS))
    assert "author" not in said


def test_model_api_subtracts_and_divides_bytes():
    said = _said(SPEC, LABELS)
    means = [float(each) for each in said["model_info mean_values"].split()]
    scales = [float(each) for each in said["model_info scale_values"].split()]
    assert means == pytest.approx([25.5, 51, 76.5])
    assert scales == pytest.approx([127.5] * 3)
    assert said["model_info reverse_input_channels"] == "True"
    assert said["model_info labels"].split() == ["tench,_Tinca_tinca", "it's", 'a_"b"', "kite"]
    assert said["model_info model_type"] == "Classification"
    assert _said(_preset("caffe"))["model_info reverse_input_channels"] == "False"


@pytest.mark.parametrize(
    ("fields", "resize"),
    [
        ({"resize": "stretch"}, "standard"),
        ({"resize": "letterbox"}, "fit_to_window_letterbox"),
        ({"resize": "shortest"}, "crop"),
        ({"resize": "shortest", "shorter_side": 224}, "crop"),
        ({"resize": "shortest", "shorter_side": 256}, None),
        ({"resize": "none"}, None),
        ({"resize": "stretch-crop", "shorter_side": 256}, None),
    ],
)
def test_model_api_is_told_of_resizing_where_it_knows_it(fields, resize):
    said = _said(_preset("unit", **fields))
    assert said.get("model_info resize_type") == resize
    assert ("model_info pad_value" in said) == (resize == "fit_to_window_letterbox")


def test_model_type_is_not_said_of_other_outputs_nor_over_anothers_word():
    proto = _model()
    proto.graph.output.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 9]))
    annotate(proto, None, LABELS)
    assert "model_info model_type" not in _metadata(proto)
    assert _said(None, LABELS, {"model_info model_type": "SSD"})["model_info model_type"] == "SSD"


def test_an_empty_label_keeps_the_place_of_the_others():
    assert _said(None, ("a", "", "c d", "e"))["model_info labels"] == "a class_1 c_d e"


@pytest.mark.parametrize(("classes", "labels"), [(9, 8), (9, 10), (1, 3)])
def test_labels_must_be_as_many_as_the_classes(classes, labels):
    with pytest.raises(TargetError, match=f"there are {labels} labels for the model's"):
        annotate(_model(classes=classes), None, ["a"] * labels)


@pytest.mark.parametrize("labels", [["positive"], ["negative", "positive"]])
def test_one_score_has_one_label_or_two(labels):
    proto = _model(classes=1)
    annotate(proto, None, labels)
    assert json.loads(_metadata(proto)["ibisa"])["labels"] == labels


@pytest.mark.parametrize(
    "arguments",
    [("m.onnx", None, None), (_model(), {"size": 3}, None), (_model(), None, "abcd")]
    + [(_model(), None, [each] * 4) for each in (3, None, b"a", "\ud800")],
)
def test_wrong_types_are_one_line_and_change_nothing(arguments):
    before = arguments[0].SerializeToString() if isinstance(arguments[0], onnx.ModelProto) else b""
    with pytest.raises(IbisaError) as caught:
        annotate(*arguments)
    assert "\n" not in str(caught.value)
    after = arguments[0].SerializeToString() if before else b""
    assert after == before


def test_what_others_said_stays_unless_it_would_disagree():
    theirs = {
        "producer": "them",
        "image.bitmappixelformat": "Bgr8",
        "model_info resize_type": "standard",
        "model_info confidence_threshold": "0.3",
        "names": "{0: 'a'}",
    }
    said = _said(SPEC, None, theirs)
    assert said["producer"] == "them"
    assert said["model_info confidence_threshold"] == "0.3"
    assert said["names"] == "{0: 'a'}"
    assert "image.bitmappixelformat" not in said
    assert "model_info resize_type" not in said
    assert ast.literal_eval(_said(None, LABELS, theirs)["names"])[0] == LABELS[0]


def test_annotating_again_leaves_nothing_of_the_first():
    proto = _model({"theirs": "1"})
    annotate(proto, _preset("tf", resize="letterbox"), LABELS)
    annotate(proto, SPEC, None)
    assert _metadata(proto) == _said(SPEC, None, {"theirs": "1"})
    annotate(proto, None, LABELS)
    assert _metadata(proto) == _said(None, LABELS, {"theirs": "1"})
    annotate(proto, None, None)
    assert _metadata(proto) == {"theirs": "1"}


def test_nothing_else_in_the_model_changes():
    proto, before = _model({"theirs": "1"}), _model({"theirs": "1"})
    annotate(proto, SPEC, LABELS)
    assert proto.graph == before.graph
    annotate(proto, None, None)
    assert proto == before


@pytest.mark.parametrize("damaged", ["{", "[]", '{"version": 1, "written": 3}', '{"version": 9}'])
def test_a_damaged_key_is_replaced(damaged):
    proto = _model({"ibisa": damaged})
    assert written_keys(_metadata(proto)) == ()
    annotate(proto, SPEC, None)
    assert json.loads(_metadata(proto)["ibisa"])["version"] == 1


def test_guesses_are_marked_and_others_are_not_told_of_them():
    spec = _preset("tf", resize="stretch", guessed=("resize", "interpolation"))
    said = _said(spec)
    own = json.loads(said["ibisa"])["preprocessing"]
    assert own["guessed"] == ["resize", "interpolation"]
    assert Preprocessing.from_dict(own) == spec
    assert "model_info resize_type" not in said
    assert said["model_info scale_values"]


def test_guessed_values_are_not_written_at_all():
    spec = _preset("imagenet", resize="stretch", guessed=("channel_order", "scale", "mean", "std"))
    said = _said(spec)
    own = json.loads(said["ibisa"])["preprocessing"]
    assert own["resize"] == "stretch"
    assert not {"channel_order", "scale", "mean", "std"} & own.keys()
    assert said["model_info resize_type"] == "standard"
    assert not {"Image.BitmapPixelFormat", "model_info mean_values"} & said.keys()


def test_channels_that_are_no_colours():
    spec = Preprocessing((8, 8), "stretch", channel_order="AS-IS", channels=6, depth="full")
    said = _said(spec)
    assert Preprocessing.from_dict(json.loads(said["ibisa"])["preprocessing"]).channels == 6
    assert "Image.BitmapPixelFormat" not in said
    assert len(said["model_info mean_values"].split()) == 6

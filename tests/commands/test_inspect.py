"""`inspect`: inputs, outputs, fields with their sources, what has no gradient, the top five."""

from __future__ import annotations

import json

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper


@pytest.fixture
def model(tmp_path):
    """Write m.onnx: a linear classifier of 8 x 8 pictures, through operators that are given."""

    def write(*operators: str, last: str = "Softmax") -> str:
        weights = np.random.default_rng(0).normal(size=(192, 5)).astype(np.float32)
        nodes = [helper.make_node("Flatten", ["image"], ["v0"])]
        nodes += [helper.make_node("MatMul", ["v0", "weights"], ["v1"])]
        for number, operator in enumerate((*operators, last), start=1):
            out = "scores" if number > len(operators) else f"v{number + 1}"
            nodes += [helper.make_node(operator, [f"v{number}"], [out])]
        integer = last == "ArgMax"
        shape = ["N", 1] if integer else ["N", 5]
        kind = TensorProto.INT64 if integer else TensorProto.FLOAT
        graph = helper.make_graph(
            nodes,
            "linear",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 8, 8])],
            [helper.make_tensor_value_info("scores", kind, shape)],
            [numpy_helper.from_array(weights, "weights")],
        )
        opset = [helper.make_opsetid("", 17)]
        path = tmp_path / "m.onnx"
        path.write_bytes(
            helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()
        )
        return "m.onnx"

    return write


def test_inputs_outputs_and_every_belief_with_its_source(cli, model):
    result = cli("inspect", model(), "--preprocess", "tf", "--mean", "2")
    assert result.code == 0
    lines = [" ".join(line.split()) for line in result.out.splitlines()]
    assert "image float32 [N, 3, 8, 8] image input, NCHW" in lines
    assert "scores float32 [N, 5]" in lines
    assert "size 8 x 8 input type and shape" in lines
    assert "mean 2 --mean" in lines
    assert "scale 0.00784314 --preprocess tf" in lines
    assert "CPUExecutionProvider" in lines


def test_guesses_are_warned_of_on_stderr(cli, model):
    assert "--preprocess" in cli("inspect", model()).err
    assert cli("inspect", model(), "-q").err == ""
    assert cli("inspect", model(), "--preprocess", "tf").err == ""


def test_operators_without_a_gradient_rule_are_named(cli, model):
    exact = cli("inspect", model("Relu"), "--preprocess", "tf").out
    assert "yes: every operator on the path has a gradient rule" in exact
    opaque = cli("inspect", model("Hardmax"), "--preprocess", "tf").out
    assert "no: Hardmax" in opaque


def test_integer_output_has_no_gradient(cli, model):
    assert "no: ArgMax: its output has no gradient" in cli("inspect", model(last="ArgMax")).out


def test_with_a_picture_the_top_five(cli, fake, model, photo):
    photo("a.jpg")
    out = cli("inspect", model(), "a.jpg").out
    assert "top-5 predictions" in out
    assert " 50.0%  goat (0)" in out
    assert "  3.1%  crane (4)" in out
    assert "top-5 predictions" not in cli("inspect", model()).out


def test_flags_on_opening_are_taken_with_a_picture_too(cli, model, photo):
    opening = ("--provider", "cpu", "--threads", "1", "--input", "image")
    said = ("--preprocess", "tf", "--resize", "stretch")
    result = cli("inspect", model(), photo(), *said, *opening)
    assert (result.code, result.err) == (0, "")


def test_json_holds_all_findings(cli, fake, model, photo):
    photo("a.jpg")
    result = cli("inspect", model(), "a.jpg", "--json", "-q", "--preprocess", "unit")
    data = json.loads(result.out)
    assert data["inputs"] == [{"name": "image", "dtype": "float32", "shape": ["N", 3, 8, 8]}]
    assert data["gradients"] == [{"output": "scores", "exact": True, "obstacles": []}]
    assert {"field": "layout", "value": "NCHW", "source": "input type and shape"} in data[
        "preprocessing"
    ]
    assert [each["index"] for each in data["predictions"]] == [0, 1, 2, 3, 4]


def test_a_bad_picture_is_code_1_after_what_is_known(cli, fake, model, tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    result = cli("inspect", model(), "bad.jpg", "-q", "--json")
    assert result.code == 1
    assert len(result.err.splitlines()) == 1
    assert json.loads(result.out)["predictions"] == []


@pytest.mark.parametrize("content", [b"", b"not a model", None])
def test_what_is_no_model_is_one_line(cli, tmp_path, content):
    if content is not None:
        (tmp_path / "bad.onnx").write_bytes(content)
    result = cli("inspect", "bad.onnx")
    assert (result.code, result.out) == (1, "")
    (line,) = result.err.splitlines()
    assert "bad.onnx" in line


def test_an_unknown_provider_is_one_line(cli, model):
    result = cli("inspect", model(), "--provider", "abacus")
    assert result.code == 2
    assert "unknown execution provider 'abacus'" in result.err


def test_a_model_that_takes_no_picture_still_shows_its_names(cli, tmp_path):
    table = helper.make_tensor_value_info("table", TensorProto.FLOAT, ["N", 10])
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 10])
    node = helper.make_node("Neg", ["table"], ["scores"])
    graph = helper.make_graph([node], "no picture", [table], [scores])
    opset = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=8)
    (tmp_path / "t.onnx").write_bytes(model.SerializeToString())
    result = cli("inspect", "t.onnx")
    assert result.code == 1
    assert "table float32 [N, 10]" in result.out
    assert "scores float32 [N, 10]" in result.out
    assert len(result.err.splitlines()) == 1
    named = json.loads(cli("inspect", "t.onnx", "--json").out)
    assert [each["name"] for each in named["outputs"]] == ["scores"]
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a model")
    assert cli("inspect", str(broken)).out == ""


def test_labels_are_told_with_their_source(cli, model, tmp_path):
    path = model()
    assert "labels\n  unknown" in cli("inspect", path, "--preprocess", "tf").out
    (tmp_path / "config.json").write_text(json.dumps({"id2label": dict(enumerate("abcde"))}))
    result = cli("inspect", path, "--preprocess", "tf")
    assert "5 names  a; b; c …" in result.out
    assert "config.json beside the model" in result.out
    assert result.err == ""
    data = json.loads(cli("inspect", path, "--preprocess", "tf", "--json").out)
    assert data["labels"] == {"count": 5, "source": "config.json beside the model"}


def test_labels_in_the_key_character_are_told_and_named(cli, written, photo, tmp_path):
    """As PaddleOCR's models have them, a line each."""
    nodes = [helper.make_node("Softmax", ["c"], ["y"], axis=1)]
    path = written(nodes, helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3]))
    model = onnx.load(tmp_path / path)
    helper.set_model_props(model, {"character": "red\ngreen\nblue"})
    onnx.save(model, tmp_path / path)
    result = cli("inspect", path, photo(), "--preprocess", "unit")
    assert "3 names  red; green; blue" in result.out
    assert "metadata key character" in result.out
    assert "blue (2)" in result.out


def test_labels_that_do_not_fit_are_told_and_those_given_refused(cli, model, tmp_path):
    path = model()
    (tmp_path / "config.json").write_text(json.dumps({"id2label": dict(enumerate("abc"))}))
    result = cli("inspect", path, "--preprocess", "tf", "--json")
    assert json.loads(result.out)["labels"] is None
    assert "ignored labels of config.json beside the model" in result.err
    (tmp_path / "mine.txt").write_text("a\nb\n")
    result = cli("inspect", path, "--preprocess", "tf", "--labels", "mine.txt")
    assert result.code == 1
    assert "2 labels for the model's 5 classes" in result.err


@pytest.fixture
def written(tmp_path):
    """Write z.onnx: the mean colour of 8 x 8 pictures, and nodes that go on from it."""

    def write(nodes, *outputs, **constants):
        mean = helper.make_node("ReduceMean", ["image"], ["c"], axes=[2, 3], keepdims=0)
        graph = helper.make_graph(
            [mean, *nodes],
            "colours",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 8, 8])],
            outputs,
            [numpy_helper.from_array(value, name) for name, value in constants.items()],
        )
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 2)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
        (tmp_path / "z.onnx").write_bytes(model.SerializeToString())
        return "z.onnx"

    return write


def test_one_score_has_two_classes_and_two_predictions(cli, written, photo):
    nodes = [helper.make_node("MatMul", ["c", "w"], ["y"])]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 1])
    path = written(nodes, output, w=np.full((3, 1), -9, np.float32))
    result = cli("inspect", path, photo(), "--preprocess", "unit")
    assert "2 names  negative; positive" in result.out
    assert "negative (0)" in result.out
    assert "positive (1)" in result.out
    assert "the logit of two classes" in result.err
    labels = "labels.txt"
    (photo().parent / labels).write_text("dog\n")
    words = ("--preprocess", "unit", "--resize", "stretch", "--labels", labels)
    named = cli("inspect", path, photo(), *words)
    assert "2 names  not dog; dog" in named.out
    assert "not dog (0)" in named.out
    assert named.err == ""


def test_the_scores_inside_a_zip_map_have_a_gradient_and_labels(cli, written, photo):
    value = helper.make_tensor_type_proto(TensorProto.FLOAT, [])
    table = helper.make_map_type_proto(TensorProto.STRING, value)
    nodes = [
        helper.make_node("Softmax", ["c"], ["p"], axis=1),
        helper.make_node(
            "ZipMap",
            ["p"],
            ["loss"],
            domain="ai.onnx.ml",
            classlabels_strings=["red", "green", "blue"],
        ),
    ]
    path = written(nodes, helper.make_value_info("loss", helper.make_sequence_type_proto(table)))
    result = cli("inspect", path, photo(), "--json", "--preprocess", "unit")
    data = json.loads(result.out)
    assert {"output": "p", "exact": True, "obstacles": []} in data["gradients"]
    assert data["labels"] == {"count": 3, "source": "the ZipMap of output loss"}
    assert {each["label"] for each in data["predictions"]} == {"red", "green", "blue"}


def test_what_is_found_with_the_picture_is_warned_of(cli, written, photo):
    nodes = [helper.make_node("Mul", ["c", "none"], ["y"])]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])
    path = written(nodes, output, none=np.zeros(3, np.float32))
    result = cli("inspect", path, photo(), "--json", "--preprocess", "unit")
    assert "all 3 classes are tied at 0.0%" in result.err
    assert any("one sigmoid per class" in each for each in json.loads(result.out)["warnings"])


def test_a_guess_that_changes_the_picture_is_said(cli, model, photo):
    result = cli("inspect", model(), photo(), "--preprocess", "tf")
    (line,) = result.err.splitlines()
    assert "the resize mode is assumed (stretch): its height is stretched 1.50x" in line
    assert line.endswith("pass --resize to change it")


def test_each_of_several_pictures_gets_its_top_five(cli, fake, model, photo):
    photo("a.jpg"), photo("b.jpg")
    said = ("--preprocess", "tf", "--resize", "stretch")
    out = cli("inspect", model(), "a.jpg", "b.jpg", *said).out
    assert "top-5 predictions for a.jpg" in out
    assert "top-5 predictions for b.jpg" in out
    data = json.loads(cli("inspect", model(), "a.jpg", "b.jpg", *said, "--json").out)
    assert list(data["pictures"]) == ["a.jpg", "b.jpg"]
    assert data["predictions"] == data["pictures"]["a.jpg"]


@pytest.fixture
def colours(tmp_path):
    """A model of five colours made for -1..1 in RGB, and pictures 0.png to 4.png of them."""
    known = np.array(
        [(230, 30, 30), (30, 230, 30), (30, 30, 230), (230, 230, 30), (30, 230, 230)], np.float32
    )
    weights = known / 127.5 - 1
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["image"], ["mean"], axes=[2, 3], keepdims=0),
            helper.make_node("Clip", ["mean", "low", "high"], ["seen"]),
            helper.make_node("Gemm", ["seen", "w", "b"], ["scores"], alpha=8.0),
        ],
        "colours",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 5])],
        [
            numpy_helper.from_array(weights.T.copy(), "w"),
            numpy_helper.from_array(-4 * (weights**2).sum(1), "b"),
            numpy_helper.from_array(np.float32(-1), "low"),
            numpy_helper.from_array(np.float32(1), "high"),
        ],
    )
    opset = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=8)
    (tmp_path / "c.onnx").write_bytes(model.SerializeToString())
    rng = np.random.default_rng(0)
    for number, colour in enumerate(known):
        pixels = np.clip(colour + rng.normal(0, 20, (8, 8, 3)), 0, 255).astype(np.uint8)
        cv2.imwrite(str(tmp_path / f"{number}.png"), pixels[..., ::-1])
    rows = "\n".join(f"{number}.png,{number}" for number in range(5))
    (tmp_path / "classes.csv").write_text(f"file,class\n{rows}\n")
    return [f"{number}.png" for number in range(5)]


def test_preprocessing_is_found_with_labels(cli, colours):
    words = ("inspect", "c.onnx", *colours, "--try", "--labels-csv", "classes.csv")
    data = json.loads(cli(*words, "--json", "-q").out)["trial"]
    assert (data["pictures"], data["passes"] > 50) == (5, True)
    level = [each["flags"] for each in data["ranks"] if each["level"]]
    assert "--preprocess tf" in level
    tf = next(each for each in data["ranks"] if each["flags"] == "--preprocess tf")
    assert tf["agreement"] == 1
    out = cli(*words).out
    assert "preprocessing candidates" in out
    assert "accuracy 100%" in out
    assert "inconclusive: " in out or "\n  conclusive: use " in out


def test_one_picture_is_not_enough(cli, colours):
    out = cli("inspect", "c.onnx", "0.png", "--try").out
    assert "inconclusive: " in out
    assert "1 image," in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--try",), "--try requires images"),
        (("0.png", "--labels-csv", "classes.csv"), "--labels-csv requires --try"),
        (("0.png", "--try", "--labels-csv", "no.csv"), "'no.csv' does not exist"),
        (("c.png", "--try", "--labels-csv", "classes.csv"), "has no class for c.png"),
        (("0.png", "--try", "--labels-csv", "far.csv"), "out of range"),
    ],
)
def test_what_is_missing_for_a_trial_is_one_line(cli, colours, tmp_path, words, said):
    (tmp_path / "far.csv").write_text("0.png,77\n")
    result = cli("inspect", "c.onnx", *words, "-q")
    assert result.code in (1, 2)
    assert said in result.err
    assert "Traceback" not in result.err


def test_characters_have_the_numbers_of_char_and_a_space_is_seen(cli, written, tmp_path):
    """Green columns are an "a", blue ones a space, red ones nothing."""
    nodes = [
        helper.make_node("ReduceMean", ["image"], ["column"], axes=[2], keepdims=0),
        helper.make_node("Mul", ["column", "gain"], ["clear"]),
        helper.make_node("Transpose", ["clear"], ["steps"], perm=[0, 2, 1]),
        helper.make_node("Softmax", ["steps"], ["y"], axis=2),
    ]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 8, 3])
    path = written(nodes, output, gain=np.float32(9))
    (tmp_path / "characters.txt").write_text("a\n \n")
    columns = np.eye(3, dtype=np.uint8)[[0, 1, 0, 2, 0, 1, 0, 0]] * 255
    cv2.imwrite("line.png", np.broadcast_to(columns, (8, 8, 3))[..., ::-1].copy())
    words = ("--kind", "text recogniser", "--labels", "characters.txt", "--preprocess", "unit")
    result = cli("inspect", path, "line.png", *words)
    lines = [" ".join(line.split()) for line in result.out.splitlines()]
    assert any(line.startswith('100.0% "a a"') for line in lines)
    assert any(line.startswith('2 100.0% " "') for line in lines)
    (read,) = json.loads(cli("inspect", path, "line.png", *words, "--json").out)[
        "pictures"
    ].values()
    assert [(each["caption"], each["number"]) for each in read][:3] == [
        ("a a", None),
        ("a", 1),
        (" ", 2),
    ]
    asked = cli("run", path, "line.png", *words, "--char", 2, "--json")
    assert json.loads(asked.out)["target"]["details"]["number"] == 2


def test_the_gradient_is_judged_where_the_answers_are_read(cli, written):
    nodes = [
        helper.make_node("Conv", ["image", "kernel"], ["maps"]),
        helper.make_node("ArgMax", ["maps"], ["y"], axis=1),
    ]
    output = helper.make_tensor_value_info("y", TensorProto.INT64, ["N", 1, 8, 8])
    kernel = np.random.default_rng(0).normal(size=(5, 3, 1, 1)).astype(np.float32)
    path = written(nodes, output, kernel=kernel)
    data = json.loads(cli("inspect", path, "--json", "--preprocess", "unit").out)
    assert data["kind"]["name"] == "segmenter"
    assert data["gradients"] == [{"output": "maps", "exact": True, "obstacles": []}]


def test_the_gradient_of_rows_is_that_of_the_boxes_made_of_them(cli, written):
    nodes = [
        helper.make_node("Gather", ["c", "columns"], ["picked"], axis=1),
        helper.make_node("Reshape", ["picked", "shape"], ["boxes"]),
        helper.make_node("Hardmax", ["c"], ["hard"]),
        helper.make_node("ReduceMax", ["hard"], ["scores"], axes=[1], keepdims=1),
        helper.make_node("Cast", ["scores"], ["labels"], to=TensorProto.INT64),
    ]
    outputs = [
        helper.make_tensor_value_info(name, kind, ["N", 1, *sides])
        for name, kind, sides in (
            ("boxes", TensorProto.FLOAT, [4]),
            ("scores", TensorProto.FLOAT, []),
            ("labels", TensorProto.INT64, []),
        )
    ]
    constants = {"columns": np.array([0, 1, 2, 2]), "shape": np.array([0, 1, 4])}
    path = written(nodes, *outputs, **constants)
    data = json.loads(cli("inspect", path, "--json", "--preprocess", "unit").out)
    assert data["kind"]["name"] == "detector"
    boxes, scores = data["gradients"]
    assert (boxes["output"], boxes["exact"]) == ("ibisa/boxes", True)
    assert (scores["output"], scores["exact"]) == ("ibisa/scores", False)
    assert scores["obstacles"][0].startswith("Hardmax")


def test_quietly_the_kind_alone_is_said(cli, fake, model, photo):
    photo("a.jpg")
    result = cli("inspect", model(), "a.jpg", "-q", "--preprocess", "unit")
    assert (result.code, result.out, result.err) == (0, "classifier\n", "")

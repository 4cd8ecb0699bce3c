"""`annotate` writes a file that needs no flag, whatever its weights lie in, and takes it back."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from ibisa_onnx import Explainer

ROOT = Path(__file__).parents[2]
WEIGHTS = np.random.default_rng(0).normal(size=(192, 5)).astype(np.float32)
LABELS = ["tench, Tinca", "it's", "c", "d", "e"]
GEOMETRY = ("--resize", "stretch", "--interpolation", "bilinear")
FLAGS = ("--preprocess", "tf", *GEOMETRY, "--labels", "labels.txt")


def _classifier(side=("N", 3, 8, 8), classes=5, metadata=None):
    """Softmax of a linear map of 8 x 8 pictures, of weights worth an external file."""
    nodes = [
        helper.make_node("Flatten", ["image"], ["v0"]),
        helper.make_node("MatMul", ["v0", "w"], ["v1"]),
        helper.make_node("Softmax", ["v1"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, side)],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", classes])],
        [numpy_helper.from_array(WEIGHTS, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, metadata or {})
    return model


@pytest.fixture
def model(tmp_path):
    """Write m.onnx and labels.txt: `model(metadata=...)`."""

    def write(**options):
        onnx.save(_classifier(**options), tmp_path / "m.onnx")
        (tmp_path / "labels.txt").write_text("\n".join(LABELS))
        return "m.onnx"

    return write


@pytest.fixture
def external(tmp_path, model):
    """The same with its weights in `big/m.data`."""
    (tmp_path / "big").mkdir()
    model()
    options = {"save_as_external_data": True, "location": "m.data", "size_threshold": 0}
    onnx.save(_classifier(), tmp_path / "big" / "m.onnx", **options)
    return tmp_path / "big"


def _metadata(path):
    loaded = onnx.load(path, load_external_data=False)
    return {each.key: each.value for each in loaded.metadata_props}


def _answer(path, photo, **said):
    explainer = Explainer(str(path), cache=False, **said)
    return explainer.predict(photo), explainer.explain(photo).map


def test_no_flag_is_needed_afterwards_and_the_map_is_the_same(cli, model, photo):
    photo = str(photo())
    path = model(metadata={"theirs": "1"})
    before = Path(path).read_bytes()
    result = cli("annotate", path, *FLAGS)
    assert (result.code, result.err) == (0, "")
    assert Path(path).read_bytes() == before
    said = {"preprocessing": "tf", "labels": "labels.txt"}
    from ibisa_onnx.preprocessing.resolve import Overrides

    wanted, wanted_map = _answer(path, photo, overrides=Overrides(resize="stretch"), **said)
    got, got_map = _answer("m.annotated.onnx", photo)
    assert got == wanted
    assert {each.label for each in got} == set(LABELS)
    np.testing.assert_array_equal(got_map, wanted_map)
    assert _metadata("m.annotated.onnx")["theirs"] == "1"
    assert cli("inspect", "m.annotated.onnx").err == ""


def test_it_says_what_was_written_and_from_where(cli, model):
    out = cli("annotate", model(), *FLAGS, "-o", "out.onnx").out
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert lines[0] == "wrote out.onnx"
    assert "ibisa JSON: preprocessing and 5 labels" in lines
    assert "Image.NominalPixelRange Normalized_1_1" in lines
    assert "resize stretch --resize" in lines
    assert "mean 1 --preprocess tf" in lines
    assert "--labels labels.txt" in lines


def test_json_and_quiet(cli, model):
    path = model()
    data = json.loads(cli("annotate", path, *FLAGS, "--json").out)
    assert data["file"] == "m.annotated.onnx"
    assert data["written"] == _metadata("m.annotated.onnx")
    assert data["labels"] == {"count": 5, "source": "--labels labels.txt"}
    assert {each["field"]: each["source"] for each in data["preprocessing"]}["std"].startswith(
        "--preprocess "
    )
    assert (data["still_to_be_said"], data["warnings"]) == ([], [])
    assert cli("annotate", path, *FLAGS, "-q").out == "m.annotated.onnx\n"


def test_json_holds_the_warnings_and_they_are_still_told(cli, model):
    result = cli("annotate", model(), "--preprocess", "tf", "--json")
    (warning,) = json.loads(result.out)["warnings"]
    assert warning.startswith("not specified, written as assumed: resize")
    assert warning in result.err


def test_what_no_metadata_can_say_is_still_asked_for(cli, tmp_path):
    nodes = [
        helper.make_node("Mul", ["image", "gain"], ["v0"]),
        helper.make_node("GlobalAveragePool", ["v0"], ["v1"]),
        helper.make_node("Flatten", ["v1"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["shares"]),
    ]
    takes = {"image": ["N", 3, 8, 8], "gain": [1]}
    graph = helper.make_graph(
        nodes,
        "two",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in takes.items()],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in ("scores", "shares")],
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), tmp_path / "m.onnx")
    also = ("--output", "shares", "--extra-input", "gain=2")
    out = cli("annotate", "m.onnx", "--preprocess", "tf", *GEOMETRY, *also).out
    assert (
        "the metadata reads back as written; still pass --output shares --extra-input gain=…" in out
    )
    assert cli("annotate", "m.annotated.onnx", "--remove", "--output", "shares").code == 2


@pytest.mark.parametrize("flag", ["--provider=cpu", "--activation=softmax", "--threads=1"])
def test_what_would_do_nothing_is_not_taken(cli, model, flag):
    result = cli("annotate", model(), *FLAGS, flag)
    assert result.code == 2
    assert not Path("m.annotated.onnx").exists()


def test_from_stdin_to_stdout(model, tmp_path):
    data = (tmp_path / model()).read_bytes()
    words = [sys.executable, str(ROOT / "cli.py"), "annotate", "-", *FLAGS]
    done = subprocess.run(words, input=data, capture_output=True, cwd=tmp_path, check=True)
    written = onnx.load_model_from_string(done.stdout)
    assert "ibisa" in {each.key for each in written.metadata_props}
    assert b"wrote to stdout" in done.stderr


@pytest.mark.parametrize("out", [None, "big/m.onnx", "other/m.onnx"])
def test_weights_in_another_file_stay_there_and_the_model_opens(
    cli, external, tmp_path, photo, out
):
    photo = str(photo())
    data = external / "m.data"
    stamp = data.stat().st_mtime_ns
    wanted = _answer(external / "m.onnx", photo, preprocessing="tf")
    result = cli("annotate", "big/m.onnx", "--preprocess", "tf", *(["-o", out] if out else []))
    assert "not specified, written as assumed: resize = stretch" in result.err
    assert "--resize, --interpolation" in result.err
    assert result.code == 0
    path = tmp_path / (out or "big/m.annotated.onnx")
    assert path.stat().st_size < WEIGHTS.nbytes
    assert data.stat().st_mtime_ns == stamp
    got = _answer(path, photo)
    assert got[0] == wanted[0]
    np.testing.assert_array_equal(got[1], wanted[1])


@pytest.mark.parametrize("out", ["big/m.data", "labels.txt"])
def test_what_was_given_is_not_overwritten(cli, external, tmp_path, out):
    (tmp_path / "labels.txt").write_text("a\nb\nc\nd\ne\n")
    before = (tmp_path / out).read_bytes()
    words = ("big/m.onnx", "--preprocess", "tf", "--labels", "labels.txt", "-o", out)
    result = cli("annotate", *words)
    assert result.code == (1 if out == "big/m.data" else 2)  # the data file is known by the model
    assert "not overwritten" in result.err
    assert (tmp_path / out).read_bytes() == before


def test_an_output_that_is_not_there_is_refused(cli, model):
    result = cli("annotate", model(), "--preprocess", "tf", "--output", "nope")
    assert result.code == 1
    assert "there is no output 'nope'; choose from: scores" in result.err


def test_in_place_and_again_what_is_said_last_holds(cli, model):
    path = model()
    assert cli("annotate", path, *FLAGS, "-o", path).code == 0
    assert cli("annotate", path, "--preprocess", "caffe", "-o", path).code == 0
    content = json.loads(_metadata(path)["ibisa"])
    assert content["preprocessing"]["channel_order"] == "BGR"
    assert content["preprocessing"]["resize"] == "stretch"  # what was not said anew stays
    assert content["labels"] == LABELS
    assert _metadata(path)["Image.BitmapPixelFormat"] == "Bgr8"
    assert "Image.NominalPixelRange" not in _metadata(path)
    assert sorted(p.name for p in Path().iterdir()) == ["labels.txt", "m.onnx"]


def test_labels_of_the_wrong_count_are_refused_and_nothing_is_written(cli, model):
    path = model()
    Path("few.txt").write_text("a\nb\n")
    result = cli("annotate", path, "--preprocess", "tf", "--labels", "few.txt")
    assert result.code == 1
    assert "2 labels for the model's 5 classes" in result.err
    assert not Path("m.annotated.onnx").exists()


def test_classes_that_no_shape_tells_are_counted_by_a_run(cli, model):
    path = model(classes="K")
    Path("few.txt").write_text("a\nb\n")
    result = cli("annotate", path, "--preprocess", "tf", "--labels", "few.txt")
    assert "2 labels for the model's 5 classes" in result.err
    assert cli("annotate", path, *FLAGS).code == 0


def test_a_guess_is_not_written(cli, model):
    result = cli("annotate", model(), "--labels", "labels.txt")
    assert result.code == 1
    assert "assumed values are not written" in result.err
    assert "--preprocess imagenet" in result.err
    assert not Path("m.annotated.onnx").exists()


def test_what_lies_beside_the_model_or_was_said_by_others_is_taken_in(cli, model):
    config = {
        "image_processor_type": "ViTImageProcessor",
        "image_mean": [0.5, 0.4, 0.3],
        "image_std": [0.5, 0.5, 0.5],
        "size": 8,
    }
    Path("preprocessor_config.json").write_text(json.dumps(config))
    path = model(metadata={"names": str(dict(enumerate("abcde")))})
    assert cli("annotate", path, "-o", "elsewhere/m.onnx").code == 0
    explainer = Explainer("elsewhere/m.onnx")
    assert explainer.preprocessing.spec.mean == (0.5, 0.4, 0.3)
    assert explainer.labels == tuple("abcde")
    assert explainer.warnings == ()


def test_the_layout_that_no_shape_tells_is_said_by_the_file(cli, model):
    path = model(side=("N", "a", "b", "c"))
    assert "--layout" in cli("inspect", path).err
    said = ("--layout", "NCHW", "--size", "8")
    assert cli("annotate", path, *FLAGS, *said, "-o", "out.onnx").code == 0
    result = cli("inspect", "out.onnx")
    assert (result.code, result.err) == (0, "")
    assert "image input, NCHW" in result.out


def test_a_model_without_class_scores_keeps_its_labels_with_a_warning(cli, tmp_path):
    graph = helper.make_graph(
        [helper.make_node("Identity", ["image"], ["boxes"])],
        "detector",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("boxes", TensorProto.FLOAT, ["N", 3, 8, 8])],
    )
    onnx.save(helper.make_model(graph, ir_version=8), tmp_path / "d.onnx")
    (tmp_path / "labels.txt").write_text("a\nb")
    result = cli("annotate", "d.onnx", "--preprocess", "unit", "--labels", "labels.txt")
    assert result.code == 0
    assert "cannot check the number of labels" in result.err
    assert json.loads(_metadata("d.annotated.onnx")["ibisa"])["labels"] == ["a", "b"]


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("net.v1", "net.v1.annotated.onnx"),
        ("net.v1.onnx", "net.v1.annotated.onnx"),
        ("NET.ONNX", "NET.annotated.onnx"),
    ],
)
def test_the_default_name_keeps_what_is_no_ending_of_a_model(cli, model, name, written):
    Path(model()).rename(name)
    assert cli("annotate", name, *FLAGS, "-q").out == f"{written}\n"


def test_remove_gives_back_what_was_there(cli, model):
    path = model(metadata={"theirs": "1", "model_info model_type": "SSD"})
    cli("annotate", path, *FLAGS)
    result = cli("annotate", "m.annotated.onnx", "--remove")
    assert result.code == 0
    assert "Image.BitmapPixelFormat" in result.out
    assert onnx.load("m.annotated.plain.onnx") == onnx.load(path)
    data = json.loads(cli("annotate", "m.annotated.onnx", "--remove", "--json").out)
    assert data["metadata"] == _metadata(path)
    assert "names" in data["removed"]


def test_remove_refuses_what_it_cannot_do(cli, model):
    path = model()
    result = cli("annotate", path, "--remove")
    assert result.code == 1
    assert "nothing to remove" in result.err
    assert cli("annotate", path, "--remove", "--preprocess", "tf").code == 2
    assert not Path("m.plain.onnx").exists()

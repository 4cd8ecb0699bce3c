"""`distill` writes a surrogate that `run` takes, or nothing at all."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from ibisa_exporters import distillation
from onnx import helper, numpy_helper

from ibisa_onnx.commands import distill

SIDE = 12


def model(seed: int = 0) -> bytes:
    """A convolution and a mean of each feature, in an opset that is known all over."""
    rng = np.random.default_rng(seed)
    kernel = rng.normal(0, 0.5, (4, 3, 3, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["image", "kernel"], ["c"]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["g"]),
        helper.make_node("Flatten", ["g"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, ["n", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("scores", onnx.TensorProto.FLOAT, ["n", 4])],
        [numpy_helper.from_array(kernel, "kernel")],
    )
    opsets = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()


@pytest.fixture
def files(tmp_path):
    """`m.onnx`, and three pictures in `pictures`."""
    (tmp_path / "m.onnx").write_bytes(model())
    (tmp_path / "pictures").mkdir()
    rng = np.random.default_rng(1)
    for number in range(3):
        picture = rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)
        cv2.imwrite(str(tmp_path / "pictures" / f"{number}.png"), picture)
    return tmp_path


FIT = ("m.onnx", "pictures", "--preprocess", "imagenet", "--threads", 1)
POOR = (*FIT, "--student", "small", "--epochs", 1, "--masks", 1)
"""A student that was taught next to nothing."""


def left(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_it_writes_what_run_takes(cli, files):
    done = cli("distill", *FIT)
    assert done.code == 0
    assert "Pearson 1.00" in done.out
    assert left(files) == {"m.onnx", "pictures", "m.surrogate.onnx"}
    options = ("--gradient", "surrogate", "--surrogate", "m.surrogate.onnx", "--json")
    said = cli("run", "m.onnx", "pictures/0.png", "--preprocess", "imagenet", *options)
    assert said.code == 0
    assert json.loads(said.out)["certificate"]["gradient"] == "surrogate"
    assert "another model" not in said.err


def test_the_default_name_keeps_what_is_no_ending_of_a_model(cli, files):
    (files / "m.onnx").rename(files / "m.v1")
    assert cli("distill", "m.v1", *FIT[1:], "-q").out == "m.v1.surrogate.onnx\n"


def test_a_program_of_torch_may_be_written_and_must_be_trusted(cli, files):
    done = cli("distill", *FIT, "-o", "s.pt2")
    assert done.code == 0, done.err
    assert "--surrogate s.pt2 --trust" in done.out
    words = ("run", "m.onnx", "pictures/0.png", "--preprocess", "imagenet", "--json")
    words = (*words, "--gradient", "surrogate", "--surrogate")
    assert "pass --trust" in cli(*words, "s.pt2").err
    trusted = cli(*words, "s.pt2", "--trust")
    assert "another model" not in trusted.err  # the facts are read
    cli("distill", *FIT, "-o", "s.onnx")
    plain = cli(*words, "s.onnx")
    one, two = (json.loads(each.out) for each in (trusted, plain))
    assert one["certificate"] == pytest.approx(two["certificate"], abs=1e-5)
    assert one["passes"] == two["passes"]


def test_a_program_needs_no_writer_of_onnx(cli, files, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    refused = cli("distill", *FIT)
    assert (refused.code, refused.out) == (1, "")
    assert "pip install 'ibisa-onnx[export]'" in refused.err
    assert cli("distill", *FIT, "-o", "s.pt2").code == 0


def test_run_warns_of_a_surrogate_of_another_model(cli, files):
    cli("distill", *FIT, "-o", "s.onnx")
    (files / "other.onnx").write_bytes(model(seed=7))
    options = ("--preprocess", "imagenet", "--surrogate", "s.onnx")
    said = cli("run", "other.onnx", "pictures/0.png", *options)
    assert "the surrogate was made for another model, m.onnx" in said.err


def test_the_figures_as_json(cli, files):
    done = cli("distill", *FIT, "-o", "s.onnx", "--json")
    record = json.loads(done.out)
    assert record["file"] == "s.onnx"
    assert record["certified"] is True
    assert record["unseen"]["pictures"] == 1
    assert record["reason"] == ""
    assert record["warnings"] == []
    assert record["queries"] == 3 + 3 * 24 + 2  # which show whether a batch mixes
    assert cli("distill", *FIT, "-o", "s.onnx", "-q").out == "s.onnx\n"


def test_a_poor_one_is_refused_in_one_line_and_not_written(cli, files):
    done = cli("distill", *POOR)
    assert done.code == 1
    assert done.out == ""
    assert (
        len(done.err.strip().splitlines())
        == len([line for line in done.err.splitlines() if "warning" in line]) + 1
    )
    assert (
        "surrogate rejected: agreement with m.onnx is below the threshold (training images: top-1"
        in done.err
    )
    assert left(files) == {"m.onnx", "pictures"}


def test_force_writes_a_poor_one_and_run_says_so(cli, files):
    done = cli("distill", *POOR, "--force", "-o", "s.onnx")
    assert done.code == 0
    assert "surrogate fails validation" in done.err
    record = json.loads(cli("distill", *POOR, "--force", "-o", "s.onnx", "--json").out)
    assert record["reason"] == "a small network was requested"
    assert any("surrogate fails validation" in each for each in record["warnings"])
    options = ("--preprocess", "imagenet", "--surrogate", "s.onnx")
    said = cli("run", "m.onnx", "pictures/0.png", *options, "--gradient", "surrogate")
    assert "the surrogate is not certified" in said.err


def test_an_interrupted_fit_leaves_nothing(cli, files, monkeypatch):
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ibisa_exporters.distillation.distilled.write_surrogate", interrupted)
    assert cli("distill", *FIT).code == 130
    assert left(files) == {"m.onnx", "pictures"}


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (("none.onnx", "pictures"), 1, "none.onnx"),
        (("m.onnx", "none.png"), 1, "none.png"),
        ((*FIT, "-o", "m.onnx"), 2, "not overwritten"),
        ((*FIT, "-o", "pictures/0.png"), 2, "not overwritten"),
        ((*FIT, "-o", "pictures"), 2, "specify a file"),
        ((*FIT, "-o", "other.ort"), 2, "the output is an ONNX file; use the suffix .onnx"),
        (("m.onnx", "-"), 2, "does not read images from stdin"),
        (("m.onnx", "pictures/0.png", "--preprocess", "imagenet"), 1, "are too few to hold out 1"),
        ((*FIT, "--held-out", "1"), 2, "held-out"),
        ((*FIT, "--student", "small", "--epochs", 0, "--force"), 2, "epochs is 0"),
    ],
)
def test_errors(cli, files, args, code, says):
    done = cli("distill", *args)
    assert done.code == code
    assert says in done.err
    assert left(files) == {"m.onnx", "pictures"}


def test_students_are_the_exporters():
    assert distill.STUDENTS == distillation.STUDENTS

"""Commands on models that do not come back, each in a process of its own: in time, in one line."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from endless import SIDE, endless_model
from onnx import TensorProto, helper

import ibisa_onnx as ibisa

_PATIENCE = 120  # seconds until a process that hangs is killed
_START = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from ibisa_onnx.models import running
running._GRACE, running._STUCK = 0.3, 0.3
real = running._noted
def told(*given):
    sys.stdout.write("busy\\n"); sys.stdout.flush()
    return real(*given)
if sys.argv[1] == "tell":
    running._noted = told
del sys.argv[1]
from ibisa_onnx.__main__ import main
main()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Models, and a dark and a bright picture."""
    onnx.save(endless_model(), tmp_path / "always.onnx")
    onnx.save(endless_model(opaque=True), tmp_path / "opaque.onnx")
    onnx.save(endless_model(above=0.5), tmp_path / "bright.onnx")
    noise = np.random.default_rng(0).integers(0, 30, (SIDE, SIDE, 3), np.uint8)
    (tmp_path / "names.txt").write_text("a\nb\nc\nd\n")
    (tmp_path / "pictures").mkdir()
    cv2.imwrite(str(tmp_path / "pictures/bright.png"), noise + 220)
    cv2.imwrite(str(tmp_path / "pictures/dark.png"), noise)
    return tmp_path


def start(folder: Path, *words: str, tell: bool = False) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _START, "tell" if tell else "-", *words],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": str(Path(ibisa.__file__).parents[1]), "OMP_NUM_THREADS": "1"},
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    try:
        out, err = process.communicate(timeout=_PATIENCE)
    finally:
        process.kill()
    return process.returncode, out, err


def files(folder: Path) -> set[str]:
    return {str(each.relative_to(folder)) for each in folder.rglob("*")}


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("always.onnx", ["run", "always.onnx", "pictures/dark.png"]),
        ("opaque.onnx", ["run", "opaque.onnx", "pictures/dark.png"]),  # while it is opened
        ("opaque.onnx", ["inspect", "opaque.onnx"]),
        ("bright.onnx", ["inspect", "bright.onnx", "pictures/bright.png"]),
        ("always.onnx", ["eval", "always.onnx", "pictures/dark.png"]),
        ("opaque.onnx", ["annotate", "opaque.onnx", "--labels", "names.txt"]),
    ],
)
def test_an_endless_model_ends_in_one_line(folder: Path, model: str, words: list[str]) -> None:
    before = files(folder)
    flags = ["--preprocess", "unit", "--resize", "none", "--deadline-ms", "1500"]
    code, _, err = finish(start(folder, *words, *flags))
    assert code == 1
    (line,) = err.splitlines()
    assert f"error: {model} was ended after" in line
    assert line.endswith("pass a longer --deadline-ms")
    assert files(folder) == before


def test_among_several_pictures_the_others_are_explained(folder: Path) -> None:
    words = ["run", "bright.onnx", "pictures", "--preprocess", "unit", "--json"]
    code, out, err = finish(start(folder, *words, "--deadline-ms", "1500"))
    assert code == 1
    assert "pictures/bright.png: bright.onnx was ended after" in err
    assert [json.loads(line)["image"] for line in out.splitlines()] == ["pictures/dark.png"]
    assert files(folder / "pictures") == {"bright.png", "dark.png", "dark.ibisa.png"}


def test_a_node_that_cannot_be_ended_ends_with_the_process(folder: Path) -> None:
    onnx.save(_one_long_node(), folder / "node.onnx")
    words = ["run", "node.onnx", "pictures/dark.png", "--preprocess", "unit"]
    code, out, err = finish(start(folder, *words, "--deadline-ms", "500"))
    assert (code, out) == (1, "")
    (line,) = err.splitlines()
    assert "error: node.onnx was ended after" in line
    assert line.endswith("pass a longer --deadline-ms")


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C cannot be sent to a single process")
@pytest.mark.parametrize(
    "words",
    [
        ["inspect", "opaque.onnx"],
        ["run", "opaque.onnx", "pictures/dark.png"],
        ["eval", "always.onnx", "pictures/dark.png"],
    ],
)
def test_one_interruption_ends_an_endless_opening_or_question(
    folder: Path, words: list[str]
) -> None:
    process = start(folder, *words, "--preprocess", "unit", tell=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "busy\n"
    process.send_signal(signal.SIGINT)
    code, _, err = finish(process)
    assert (code, err) == (130, "ibisa-onnx: error: interrupted\n")


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C cannot be sent to a single process")
def test_the_second_interruption_ends_an_endless_explanation(folder: Path) -> None:
    before = files(folder)
    words = ["run", "always.onnx", "pictures/dark.png", "--preprocess", "unit"]
    process = start(folder, *words, tell=True)
    assert process.stdout is not None
    assert [process.stdout.readline() for _ in range(2)] == ["busy\n"] * 2  # opened, and asked
    for _ in range(100):  # two that come at once may count as one
        process.send_signal(signal.SIGINT)
        try:
            process.wait(timeout=1)
            break
        except subprocess.TimeoutExpired:
            pass
    code, _, err = finish(process)
    assert code == 130
    assert err.splitlines()[-1] == "ibisa-onnx: error: interrupted"
    assert files(folder) == before


def _one_long_node() -> onnx.ModelProto:
    """Return scores that come out of a pooling of 10^13 comparisons."""
    shape = helper.make_tensor("shape", TensorProto.INT64, [4], [1, 1, 4000, 4000])
    mean: dict[str, Any] = {"axes": [1, 2, 3], "keepdims": 1}
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["image"], ["mean"], **mean),
            helper.make_node("Expand", ["mean", "shape"], ["large"]),
            helper.make_node("MaxPool", ["large"], ["pooled"], kernel_shape=[2000, 2000]),
            helper.make_node("ReduceMax", ["pooled"], ["most"], **mean),
            helper.make_node("ReduceMean", ["image"], ["colours"], axes=[2, 3], keepdims=1),
            helper.make_node("Mul", ["colours", "most"], ["scaled"]),
            helper.make_node("Flatten", ["scaled"], ["scores"]),
        ],
        "node",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 3])],
        [shape],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)

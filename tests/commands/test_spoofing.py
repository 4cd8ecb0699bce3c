"""Strangers' names, in models, labels and paths, command no terminal and forge no line."""

from __future__ import annotations

import json
import os
import unicodedata
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

EVIL = "c\n\r\x1b[2J\x9b31m\u202e\u2028\x7fibisa-onnx: error: forged"
PICTURE = os.fsdecode(b"p\n\r\x1b[2J\xc2\x9b\xe2\x80\xae\xff.png")  # not UTF-8, too
CLASSES = 5
LINES = 60  # no command here has more to say


@pytest.fixture
def evil(cli, tmp_path: Path) -> Path:
    """Write a model, its labels, pictures and a map, all with such names, into the folder."""
    size = 3 * 16 * 16
    weights = np.random.default_rng(0).normal(size=(size, CLASSES)).astype(np.float32) / 30
    image, output, batch = f"image{EVIL}", f"y{EVIL}", f"n{EVIL}"
    graph = helper.make_graph(
        [
            helper.make_node("Reshape", [image, "flat"], ["v"], name=f"r{EVIL}"),
            helper.make_node("MatMul", ["v", "w"], [output], name=f"m{EVIL}"),
        ],
        f"g{EVIL}",
        [helper.make_tensor_value_info(image, TensorProto.FLOAT, [batch, 3, 16, 16])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, [batch, CLASSES])],
        [
            helper.make_tensor("flat", TensorProto.INT64, [2], [0, size]),
            onnx.numpy_helper.from_array(weights, "w"),
        ],
    )
    opset = [helper.make_opsetid("", 13)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=8, producer_name=EVIL)
    helper.set_model_props(model, {f"mean{EVIL}": EVIL, "scale_values": EVIL, "labels": EVIL})
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    names = [f"{number}{EVIL}" for number in range(CLASSES)]
    (tmp_path / "labels.json").write_text(json.dumps(names))
    pixels = np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)
    for name in (PICTURE, f"{EVIL}/{PICTURE}", f"{EVIL}/q.png"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
    np.save(tmp_path / "map.npy", np.random.default_rng(0).random((20, 30)).astype(np.float32))
    return tmp_path


SAID = ("--preprocess", "unit", "--labels", "labels.json")


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["run", "m.onnx", PICTURE, *SAID], 0),
        (["run", "m.onnx", PICTURE, *SAID, "-v"], 0),
        (["run", "m.onnx", PICTURE, *SAID, "--json"], 0),
        (["run", "m.onnx", PICTURE, *SAID, "-q"], 0),
        (["run", "m.onnx", EVIL, *SAID, "-t", "top:2", "--with-data", "-o", f"o{EVIL}/"], 0),
        (["run", "m.onnx", PICTURE, *SAID, "-t", f"no{EVIL}"], 1),
        (["run", "m.onnx", PICTURE, *SAID, "--output", f"no{EVIL}"], 1),
        (["run", "m.onnx", f"no{PICTURE}"], 1),
        (["inspect", "m.onnx", PICTURE], 0),
        (["inspect", "m.onnx", PICTURE, *SAID, "--json"], 0),
        (["inspect", "m.onnx", PICTURE, f"{EVIL}/q.png", "--try", "-v"], 0),
        (["eval", "m.onnx", PICTURE, *SAID, "--metric", "deletion"], 0),
        (["eval", "m.onnx", PICTURE, "map.npy", *SAID, "--json", "--metric", "deletion"], 0),
        (["annotate", "m.onnx", *SAID], 0),
        (["gradient", "m.onnx"], 0),
        (["bench", "m.onnx", EVIL, *SAID, "--against", "random", "-o", f"o{EVIL}"], 0),
    ],
    ids=lambda value: None if isinstance(value, int) else " ".join(value)[:20].strip("\n\r"),
)
def test_no_name_commands_a_terminal_or_forges_a_line(cli, evil, words, code):
    result = cli(*words)
    assert result.code == code, result.err
    for stream in (result.out, result.err):
        raw = {each for each in stream if unicodedata.category(each) in ("Cc", "Cf", "Cs", "Zl")}
        assert raw <= {"\n"}
        lines = stream.splitlines()
        assert len(lines) < LINES
        assert not [line for line in lines if line.strip().startswith("ibisa-onnx: error: forged")]
    assert "[2J" in result.out + result.err  # it was shown
    assert "this is a bug" not in result.err
    if "--json" in words:
        json.loads(result.out)
    for record in evil.rglob("*.json"):
        assert "\u202e" not in record.read_text(errors="surrogateescape")

"""`gradient` writes a file that ONNX Runtime alone can run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

ROOT = Path(__file__).parents[2]
F = np.float32
WEIGHTS = np.random.default_rng(0).normal(size=(40, 30)).astype(F)


def network(op_type="Tanh"):
    """y = op(x w), of weights worth an external file."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["s"]),
        helper.make_node(op_type, ["s"], ["y"], name="odd"),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 40])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 30])],
        [numpy_helper.from_array(WEIGHTS, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "model.onnx"
    onnx.save(network(), path)
    return path


@pytest.fixture
def external(tmp_path):
    """The same with its weights in `model.data`."""
    path = tmp_path / "big" / "model.onnx"
    path.parent.mkdir()
    options = {"save_as_external_data": True, "location": "model.data", "size_threshold": 0}
    onnx.save(network(), path, **options)
    return path


def assert_right(path):
    x, dy = np.linspace(-1, 1, 40, dtype=F)[None], np.linspace(0, 1, 30, dtype=F)[None]
    y, dx = ort.InferenceSession(path).run(None, {"x": x, "cotangent": dy})
    np.testing.assert_allclose(y, np.tanh(x @ WEIGHTS), atol=1e-5)
    np.testing.assert_allclose(dx, (dy * (1 - y**2)) @ WEIGHTS.T, atol=1e-5)


def test_writes_beside_the_model_and_says_what(cli, model):
    result = cli("gradient", model)
    assert (result.code, result.err) == (0, "")
    written = model.with_name("model.grad.onnx")
    assert_right(written)
    for text in (written, "x float32 [N, 40]", "cotangent float32 [N, 30]", "gradient float32"):
        assert str(text) in result.out
    assert sorted(each.name for each in model.parent.iterdir()) == [
        "model.grad.onnx",
        "model.onnx",
    ]


def test_the_call_that_it_prints_runs(cli, model):
    lines = cli("gradient", model).out.splitlines()
    code = "\n".join(line.strip() for line in lines[lines.index("usage") + 1 :])
    ones = {"x": np.ones((1, 40), F), "cotangent": np.ones((1, 30), F)}
    for name in ones:
        code = code.replace(f'"{name}": ...', f'"{name}": {name}')
        assert f'"{name}": {name}' in code
    names = {"onnxruntime": ort, **ones}
    exec(code, names)
    assert names["gradient"].shape == (1, 40)


def test_json_and_quiet(cli, model):
    data = json.loads(cli("gradient", model, "--json", "-o", "g.onnx").out)
    assert data["inputs"][-1] == {"name": "cotangent", "dtype": "float32", "shape": ["N", 30]}
    assert (data["cotangent"], data["gradient"], data["opset"]) == ("cotangent", "gradient", 18)
    assert data["file"] == "g.onnx"
    assert cli("gradient", model, "-q", "-o", "h.onnx").out == "h.onnx\n"
    assert_right("h.onnx")


def test_external_weights_are_found_beside_and_elsewhere(cli, external, tmp_path):
    assert cli("gradient", external).code == 0
    assert_right(external.with_name("model.grad.onnx"))
    elsewhere = tmp_path / "else" / "where.onnx"
    assert cli("gradient", external, "-o", elsewhere).code == 0
    data = elsewhere.with_name("model.data")
    assert data.read_bytes() == external.with_name("model.data").read_bytes()
    assert elsewhere.stat().st_size < data.stat().st_size
    assert_right(elsewhere)
    assert cli("gradient", external, "-o", elsewhere).code == 0  # the same weights may be there
    data.write_bytes(b"other weights")
    result = cli("gradient", external, "-o", elsewhere)
    assert result.code == 1
    assert "else/model.data exists and differs from" in result.err
    assert data.read_bytes() == b"other weights"


def test_refusals_are_one_line_and_leave_nothing(cli, model, tmp_path):
    onnx.save(network("NoSuchOperator"), tmp_path / "odd.onnx")
    before = sorted(tmp_path.iterdir())
    for words, said in [
        (["odd.onnx"], "NoSuchOperator 'odd'"),
        ([model, "--output", "z"], "choose one of: y"),
        ([model, "--input", "z"], "choose one of: x"),
        (["none.onnx"], "does not exist"),
    ]:
        result = cli("gradient", *words)
        assert (result.code, result.out) == (1, "")
        (line,) = result.err.splitlines()
        assert said in line
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("words", [[], ["-o", "-"], ["-o", "/dev/stdout"]])
def test_stdin_to_stdout(model, words):
    """Where only the graph goes, and what is told of it goes to stderr."""
    done = subprocess.run(
        [sys.executable, ROOT / "cli.py", "gradient", "-", *words],
        input=model.read_bytes(),
        capture_output=True,
        check=True,
    )
    model.with_name("out.onnx").write_bytes(done.stdout)
    assert_right(model.with_name("out.onnx"))
    assert b"cotangent" in done.stderr


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [([""], 2, "MODEL is empty"), (["MODEL", "-o", ""], 2, "-o is empty")],
)
def test_empty_names_are_one_line_and_no_bug(cli, model, words, code, said):
    result = cli("gradient", *(str(model) if word == "MODEL" else word for word in words))
    assert result.code == code
    assert said in result.err
    assert "bug" not in result.err

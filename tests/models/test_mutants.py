"""Damaged models: refused in one line or used, by a fixed seed; see `mutants.py`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from strangers import OPSET, doubling

import ibisa_onnx.demo

TESTS = Path(__file__).parent.parent
EACH = 100


def network() -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    weights = {"w": rng.normal(size=(4, 3, 3, 3)), "d": rng.normal(size=(4, 5))}
    node = helper.make_node
    graph = helper.make_graph(
        [
            node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1], kernel_shape=[3, 3]),
            node("Relu", ["c"], ["r"]),
            node("MaxPool", ["r"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
            node("GlobalAveragePool", ["p"], ["g"]),
            node("Flatten", ["g"], ["f"]),
            node("Gemm", ["f", "d"], ["l"]),
            node("Softmax", ["l"], ["y"], axis=1),
        ],
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 5])],
        [numpy_helper.from_array(each.astype(np.float32), name) for name, each in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[OPSET], ir_version=8)


def branches() -> onnx.ModelProto:
    """Functions that call others, and a branch."""
    proto, inner = doubling(3), []
    for op in ("Sigmoid", "Tanh"):
        output = helper.make_tensor_value_info("i", TensorProto.FLOAT, None)
        inner.append(helper.make_graph([helper.make_node(op, ["z0"], ["i"])], op, [], [output]))
    true = numpy_helper.from_array(np.array(True))
    proto.graph.node[0].output[0] = "z0"
    proto.graph.node.insert(1, helper.make_node("Constant", [], ["b"], value=true))
    choice = helper.make_node("If", ["b"], ["z"], then_branch=inner[0], else_branch=inner[1])
    proto.graph.node.insert(2, choice)
    return proto


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="each mutant is used in a fork")
def test_a_damaged_model_is_used_or_refused_in_one_line(tmp_path):
    shutil.copy(Path(ibisa_onnx.demo.__file__).parent / "model.onnx", tmp_path / "demo.onnx")
    (tmp_path / "network.onnx").write_bytes(network().SerializeToString())
    (tmp_path / "branches.onnx").write_bytes(branches().SerializeToString())
    words = [sys.executable, TESTS / "mutants.py", tmp_path, "20", str(EACH)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])}
    done = subprocess.run(words, capture_output=True, text=True, timeout=400, env=environment)
    assert done.returncode == 0, done.stderr
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(told) == 3 * EACH
    # A signal is ONNX Runtime's own fault, which nothing here can mend.
    wrong = [each for each in told if not each["said"].startswith(("run: ", "signal"))]
    assert wrong + [each for each in told if "not one line" in each["said"]] == []
    assert sum("done" in each["said"] for each in told) > EACH / 5
    assert sum("refused" in each["said"] for each in told) > EACH

"""What a model may take: told before it is allocated, and in one line where it cannot be."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from strangers import model, opened, relu

from ibisa_onnx.errors import ModelError
from ibisa_onnx.limits import Limits


class TestMemory:
    @pytest.mark.parametrize(
        "change",
        [{"side": 30_000}, {"outputs": 2 * 10**7}],
        ids=["input", "outputs"],
    )
    def test_a_call_that_takes_more_than_the_limit_is_refused_with_the_numbers(self, change):
        proto = model(helper.make_node("Relu", ["x"], ["z"]), **change)
        del proto.graph.node[:]
        shape = [1, change.get("outputs", 3)]
        proto.graph.node.append(helper.make_node("Flatten", ["x"], ["flat"]))
        proto.graph.node.append(helper.make_node("ReduceMean", ["flat"], ["m"], axes=[1]))
        proto.graph.node.append(helper.make_node("Expand", ["m", "shape"], ["y"]))
        proto.graph.initializer.append(numpy_helper.from_array(np.array(shape), "shape"))
        with pytest.raises(ModelError, match=r"one call requires about [\d,]{13,} bytes") as caught:
            opened(proto)
        assert "set IBISA_ONNX_MAX_MEMORY to allow more" in str(caught.value)
        assert opened(proto, limits=Limits(memory=2**40)).signature

    def test_a_fixed_batch_counts(self):
        proto = relu()
        for value in (proto.graph.input[0], proto.graph.output[0]):
            value.type.tensor_type.shape.dim[0].dim_value = 100_000
        assert opened(proto)  # 100,000 pictures of 8 x 8 are not much
        with pytest.raises(ModelError, match="the input is 100000 x 3 x 8 x 8"):
            opened(proto, limits=Limits(memory=10**8))

    def test_outputs_whose_shape_a_run_tells_count_then(self):
        proto = model(helper.make_node("Tile", ["x", "many"], ["z"]))
        proto.graph.node[-1].CopyFrom(helper.make_node("Identity", ["z"], ["y"]))
        proto.graph.output[0].type.tensor_type.ClearField("shape")
        proto.graph.input.append(helper.make_tensor_value_info("many", TensorProto.INT64, [4]))
        found = opened(proto, limits=Limits(memory=10**8), extra_inputs={"many": [1, 1, 1000, 100]})
        with pytest.raises(
            ModelError, match=r"its outputs require about 384,000,000 bytes.*y \[1, 3"
        ):
            found.run(np.ones((1, 3, 8, 8), np.float32))

    def test_a_size_that_was_asked_for_counts_before_a_picture_is_made_so_large(
        self, cli, tmp_path
    ):
        proto = relu()
        for side in proto.graph.input[0].type.tensor_type.shape.dim[2:]:
            side.Clear()
        (tmp_path / "open.onnx").write_bytes(proto.SerializeToString())
        (tmp_path / "p.png").write_bytes(b"")
        result = cli("inspect", "open.onnx", "p.png", "--size", "10000")
        assert result.code == 1
        assert "one call requires about 3,600,000," in result.err
        assert len(result.err.splitlines()) == 1


_BOMB = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
import numpy as np
from ibisa_onnx.errors import ModelError
from ibisa_onnx.models.onnx_session import DeployedModel
try:
    opened = DeployedModel.open(sys.argv[1], providers=["cpu"], threads=1)
    opened.run(np.ones((1, 3, 8, 8), np.float32))
except ModelError as error:
    print(error)
"""


@pytest.mark.parametrize("count", [2 * 10**9, 10**11, 2**61])
@pytest.mark.cpu_provider("the message does not name the node")
def test_what_onnx_runtime_cannot_allocate_is_said_in_one_line(tmp_path, count):
    proto = model(
        helper.make_node("ConstantOfShape", ["shape"], ["big"]),
        helper.make_node("ReduceMax", ["big"], ["most"], keepdims=0),
        helper.make_node("Add", ["x", "most"], ["z"]),
        weights=[numpy_helper.from_array(np.array([count]), "shape")],
    )
    path = tmp_path / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    done = subprocess.run(
        [sys.executable, "-c", _BOMB, str(path)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "ConstantOfShape: " in done.stdout
    assert len(done.stdout.splitlines()) == 1
    if count < 2**60:
        assert f"out of memory: {4 * count} bytes were requested" in done.stdout

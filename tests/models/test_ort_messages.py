"""ONNX Runtime's messages keep what matters: its own words are asked for where it gives them."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from ibisa_onnx.errors import ModelError
from ibisa_onnx.models.onnx_session import DeployedModel
from ibisa_onnx.models.ort_messages import essence, shorten

IMAGE = np.zeros((1, 3, 4, 4), np.float32)


def model(op_type="Relu", domain="", opset=17, ir=8, **constants) -> onnx.ModelProto:
    node = helper.make_node(op_type, ["x", *constants], ["y"], name="/body/node", domain=domain)
    graph = helper.make_graph(
        [node],
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 4, 4])],
        [helper.make_empty_tensor_value_info("y")],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    imports = [helper.make_opsetid("", opset)]
    imports += [helper.make_opsetid(domain, 1)] if domain else []
    return helper.make_model(graph, opset_imports=imports, ir_version=ir)


def complaint(proto: onnx.ModelProto, image: np.ndarray = IMAGE) -> str:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    with pytest.raises(Exception) as caught:  # noqa: PT011 - each has a class of its own
        onnxruntime.InferenceSession(
            proto.SerializeToString(), options, ["CPUExecutionProvider"]
        ).run(None, {"x": image})
    return essence(caught.value)


@pytest.mark.parametrize(("change", "what"), [({"ir": 99}, "IR version"), ({"opset": 99}, "opset")])
@pytest.mark.parametrize("as_file", [False, True])
def test_a_file_that_is_too_new_says_which_number_is_read(tmp_path, change, what, as_file):
    data = model(**change).SerializeToString()
    (tmp_path / "new.onnx").write_bytes(data)
    with pytest.raises(ModelError) as caught:
        DeployedModel.open(tmp_path / "new.onnx" if as_file else data)
    name = "new.onnx" if as_file else "the model"
    text = str(caught.value)
    assert text.startswith(f"ONNX Runtime cannot open {name}: {what} 99; this ONNX Runtime reads ")
    assert text.endswith(": update it")


def test_what_is_wrong_with_an_input_is_kept():
    assert complaint(model(), IMAGE[0]) == "Invalid rank for input: x Got: 3 Expected: 4"
    text = complaint(model(), IMAGE[:, :2])
    assert text.endswith("input: x for the following indices index: 1 Got: 2 Expected: 3")


def test_a_node_that_fails_is_named_without_the_runtimes_source():
    assert complaint(model("Reshape", shape=[7, -1])) == (
        "Reshape '/body/node': The input tensor cannot be reshaped to the requested shape. "
        "Input shape:{1,3,4,4}, requested shape:{7,-1}"
    )


def test_an_operator_that_there_is_not_is_named():
    assert complaint(model("Foo")) == "Foo '/body/node': operator Foo does not exist in opset 17"
    assert complaint(model("Foo", "my.ops")) == "unknown operator my.ops.Foo"


_SOURCE = "/onnxruntime_src/onnxruntime/core"


@pytest.mark.parametrize(
    ("raw", "short"),
    [
        (
            "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code returned while "
            f"running Conv node. Name:'c' Status Message: {_SOURCE}/framework/bfc_arena.cc:376 "
            "void* onnxruntime::BFCArena::AllocateRawInternal(size_t, bool, onnxruntime::Stream*) "
            "Failed to allocate memory for requested buffer of size 128",
            "Conv 'c': out of memory: 128 bytes were requested",
        ),
        (
            f"{_SOURCE}/x.cc:129 std::conditional_t<T, void> onnxruntime::CudaCall(ERRTYPE, int) "
            f"[with ERRTYPE = cudaError; bool T = true] {_SOURCE}/x.cc:121 void "
            "onnxruntime::CudaCall(ERRTYPE) [with ERRTYPE = cudaError] CUDA failure 2: out of "
            "memory ; GPU=0 ; hostname=secret ; file=x.cc ; line=87 ; expr=cudaMalloc((void**)&p);",
            "CUDA failure 2: out of memory",
        ),
        (
            r"[ONNXRuntimeError] : 1 : FAIL : D:\a\1\s\onnxruntime\core\graph\model.cc:149 "
            "onnxruntime::Model::Model Unsupported model IR version: 10, max supported IR "
            "version: 9",
            "IR version 10; this ONNX Runtime reads up to 9: update it",
        ),
        (
            f"{_SOURCE}/x.cc:12 onnxruntime::Opt::Run(const F&) const::<lambda(T&)> [with T = int] "
            "x > 0 was false. Something (odd) happened",
            "Something (odd) happened",
        ),
        (f"{_SOURCE}/x.cc:1 Words that are no function", "Words that are no function"),
        ("tensorprotoutils.cc:592 CheckPath Not allowed (a)", "Not allowed (a)"),
        ("std::bad_alloc", "out of memory"),
        ("Exception during initialization: std::bad_alloc", "out of memory"),
        (
            "[ONNXRuntimeError] : 1 : FAIL : Non-zero status code returned while running MatMul "
            "node. Name:'fc' Status Message: matmul_helper.h:59 Compute MatMul dimension mismatch",
            "MatMul 'fc': MatMul dimension mismatch",
        ),
        (
            "[ONNXRuntimeError] : 9 : NOT_IMPLEMENTED : Could not find an implementation for "
            "Relu(14) node with name ''",
            "Relu: no implementation of Relu (opset 14) for these types",
        ),
        ("somebody else's file.h:12 is odd (really)", "somebody else's file.h:12 is odd (really)"),
    ],
)
def test_signatures_paths_and_lines_go(raw, short):
    assert shorten(raw) == short


def test_of_a_long_message_the_end_stays():
    text = complaint(model("Concat", **{"z" * 5000: np.ones((1, 3, 7, 4), np.float32)}))
    assert len(text) <= 400
    missing = model()
    missing.graph.node[0].input[0] = "q" * 5000
    text = complaint(missing)
    assert len(text) <= 400
    assert text.endswith("' is not a graph input, initializer, or output of a previous node.")

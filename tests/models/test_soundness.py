"""A stranger's protobuf: refused in one line, or read as what it is."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from strangers import call, doubling, function, model, opened, relu

from ibisa_onnx.autodiff import backward_graph
from ibisa_onnx.errors import ModelError
from ibisa_onnx.limits import Limits
from ibisa_onnx.models.onnx_file import ModelFile
from ibisa_onnx.models.onnx_session import DeployedModel


class TestFunctions:
    @pytest.mark.parametrize("use", [opened, backward_graph, lambda m: ModelFile.of(m).parse()])
    @pytest.mark.parametrize("times", [24, 60, 4000])
    def test_too_many_nodes_once_written_out_are_refused_before(self, use, times):
        proto = doubling(times) if use is not opened else doubling(times).SerializeToString()
        if not isinstance(proto, bytes) and use is not backward_graph:
            proto = proto.SerializeToString()
        count = {24: "16,777,217", 60: r"over 10\^18", 4000: r"over 10\^1204"}[times]
        with pytest.raises(
            ModelError, match=f"has {count} nodes with its functions inlined"
        ) as caught:
            use(proto)
        assert "more than the limit of 1,000,000" in str(caught.value)
        assert "IBISA_ONNX_MAX_NODES" in str(caught.value)

    def test_the_limit_is_settable_and_counts_exactly(self, monkeypatch):
        proto = doubling(5)
        assert opened(proto, limits=Limits(nodes=33)).run(np.ones((1, 3, 8, 8), np.float32))
        with pytest.raises(ModelError, match="has 33 nodes with its functions inlined"):
            opened(proto, limits=Limits(nodes=32))
        monkeypatch.setenv("IBISA_ONNX_MAX_NODES", "32")
        with pytest.raises(ModelError, match="has 33 nodes with its functions inlined"):
            backward_graph(proto.SerializeToString())

    def test_calls_inside_a_branch_count(self):
        proto = doubling(24)
        inner = helper.make_graph(
            [call("f24", "x", "i")], "inner", [],
            [helper.make_tensor_value_info("i", TensorProto.FLOAT, None)],
        )  # fmt: skip
        proto.graph.node[0].CopyFrom(helper.make_node("If", ["b"], ["z"], then_branch=inner))
        with pytest.raises(ModelError, match="has 16,777,218 nodes"):
            opened(proto)

    @pytest.mark.parametrize("names", [("f",), ("f", "g"), ("f", "g", "h")])
    def test_functions_that_call_each_other_in_a_circle_are_refused(self, names):
        made = [function(name, call(names[n - 1], "a", "c")) for n, name in enumerate(names)]
        proto = model(call("f", "x", "z"), functions=made)
        for use in (opened, backward_graph):
            with pytest.raises(ModelError, match=r"are recursive \(.*f"):
                use(proto)

    def test_an_operator_with_a_functions_name_in_another_domain_is_no_call(self):
        made = [function("Relu", helper.make_node("Relu", ["a"], ["c"]))]
        proto = model(call("Relu", "x", "z"), functions=made)
        x = np.random.default_rng(0).normal(size=(1, 3, 8, 8)).astype(np.float32)
        np.testing.assert_allclose(
            opened(proto).run(x)["y"], np.maximum(x, 0).mean(axis=(2, 3)), rtol=1e-5
        )


WORDS = ("x", "z", "Relu", "/a/node", "ours", "means", "n", "y")


@pytest.mark.parametrize("word", [*WORDS, "axes", "key", "value", "weight"])
def test_a_name_that_is_not_utf_8_is_refused(word):
    weights = [numpy_helper.from_array(np.ones(1, np.float32), "weight")]
    proto = model(helper.make_node("Relu", ["x"], ["z"], name="/a/node"), weights=weights)
    proto.metadata_props.add(key="key", value="value")
    data = proto.SerializeToString()
    framed = bytes([len(word)]) + word.encode()  # the length is written before
    assert framed in data
    spoilt = data.replace(framed, bytes([len(word)]) + b"\xff" * len(word))
    for use in (opened, backward_graph, lambda data: ModelFile.of(data).sha256()):
        with pytest.raises(ModelError, match="contains a name that is not UTF-8"):
            use(spoilt)


@pytest.mark.parametrize("word", ["x", "y", "n", "key", "value"])
def test_so_is_an_open_session_with_such_a_name(word):
    proto = relu()
    proto.metadata_props.add(key="key", value="value")
    data = proto.SerializeToString()
    framed = bytes([len(word)]) + word.encode()
    session = onnxruntime.InferenceSession(data.replace(framed, framed[:1] + b"\xff" * len(word)))
    with pytest.raises(ModelError, match="contains a name that is not UTF-8"):
        DeployedModel.open(session)


def test_a_description_that_is_not_utf_8_does_no_harm():
    proto = relu()
    proto.doc_string = "abc"
    proto.graph.node[0].doc_string = "abc"
    spoilt = proto.SerializeToString().replace(b"abc", b"\xffbc")
    image = np.ones((1, 3, 8, 8), np.float32)
    np.testing.assert_array_equal(opened(spoilt).run(image)["y"], np.ones((1, 3), np.float32))
    assert backward_graph(spoilt).graph.node


@pytest.mark.parametrize("dims", [[-1], [2**40, 2**40], [2**62], [-(2**63), 2]])
def test_a_weights_shape_that_is_none_is_refused(dims):
    bad = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=dims)
    proto = model(helper.make_node("Relu", ["x"], ["z"]), weights=[bad])
    for use in (opened, backward_graph):
        with pytest.raises(ModelError, match="tensor 'w' has the invalid shape"):
            use(proto.SerializeToString())


class TestNoFile:
    @pytest.fixture(params=["pipe", "device", "socket"])
    def path(self, request, tmp_path, monkeypatch) -> Path:
        path = tmp_path / "m.onnx"
        if request.param == "pipe":
            os.mkfifo(path)
        elif request.param == "device":
            path.symlink_to("/dev/zero")
        else:
            monkeypatch.chdir(tmp_path)
            with socket.socket(socket.AF_UNIX) as made:
                made.bind("m.onnx")
        return path

    def test_what_is_no_regular_file_is_refused_at_once(self, path):
        for use in (DeployedModel.open, backward_graph, DeployedModel.tensors):
            with pytest.raises(ModelError, match="is a pipe or a device, not an ONNX file"):
                use(path)

    @pytest.mark.parametrize("verb", ["inspect", "annotate", "gradient"])
    def test_in_one_line(self, cli, path, verb):
        result = cli(verb, path)
        assert result.code == 1
        assert len(result.err.splitlines()) == 1

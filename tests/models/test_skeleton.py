"""A model read without its weights' values: all else is as in the whole of it."""

from __future__ import annotations

import io

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from strangers import function, model, opened, relu

from ibisa_onnx.errors import ModelError
from ibisa_onnx.limits import Limits
from ibisa_onnx.models import skeleton
from ibisa_onnx.models.onnx_file import ModelFile
from ibisa_onnx.models.onnx_session import DeployedModel


class TestSkeleton:
    """Small files are parsed whole, so here no file counts as small."""

    @pytest.fixture(autouse=True)
    def _nothing_is_small(self, monkeypatch):
        monkeypatch.setattr(skeleton, "_WHOLE", 0)

    def slim(self, proto: onnx.ModelProto) -> onnx.ModelProto:
        data = proto.SerializeToString()
        kept = skeleton.skeleton_of(io.BytesIO(data), len(data), "it", Limits())
        return onnx.load_model_from_string(kept)

    def test_all_is_there_but_the_values_of_large_tensors(self):
        rng = np.random.default_rng(1)
        large, small = rng.normal(size=(80, 90)), np.arange(5)
        constant = numpy_helper.from_array(large, "c")
        inner = model(weights=[numpy_helper.from_array(large, "inner")]).graph
        sparse = onnx.SparseTensorProto(dims=[9000])
        sparse.values.CopyFrom(numpy_helper.from_array(large.ravel(), "s"))
        sparse.indices.CopyFrom(numpy_helper.from_array(np.arange(7200)))
        proto = model(
            helper.make_node("Constant", [], ["c"], value=constant),
            helper.make_node("If", ["b"], ["z"], then_branch=inner),
            functions=[function("f", helper.make_node("Constant", [], ["c"], value=constant))],
            weights=[numpy_helper.from_array(large, "w"), numpy_helper.from_array(small, "small")],
        )
        proto.graph.sparse_initializer.append(sparse)
        proto.graph.initializer.add(
            name="typed", dims=[4000], data_type=TensorProto.FLOAT, float_data=[1.5] * 4000
        )
        proto.metadata_props.add(key="k", value="v" * 10_000)
        slim = self.slim(proto)
        assert slim.ByteSize() < 15_000 < proto.ByteSize()
        for tensor in (
            proto.graph.initializer[0],
            proto.graph.initializer[2],
            proto.graph.node[0].attribute[0].t,
            proto.graph.node[1].attribute[0].g.initializer[0],
            proto.functions[0].node[0].attribute[0].t,
            proto.graph.sparse_initializer[0].values,
            proto.graph.sparse_initializer[0].indices,
        ):
            tensor.ClearField("raw_data")
            tensor.ClearField("float_data")
        assert slim == proto

    def test_a_model_with_external_weights_is_read_the_same(self, tmp_path):
        path = tmp_path / "m.onnx"
        options = {"save_as_external_data": True, "location": "w.bin", "size_threshold": 0}
        weights = [numpy_helper.from_array(np.ones((3, 3, 1, 1), np.float32), "w")]
        onnx.save(
            model(helper.make_node("Conv", ["x", "w"], ["z"]), weights=weights), path, **options
        )
        opened_file = DeployedModel.open(path, providers=["cpu"])
        whole = ModelFile.at(path)
        assert opened_file.sha256 == whole.sha256()
        (tmp_path / "w.bin").unlink()
        with pytest.raises(ModelError, match=r"w\.bin is missing"):
            DeployedModel.open(path, providers=["cpu"])

    @pytest.mark.parametrize("cut", range(1, 10))
    def test_what_is_cut_off_is_no_model(self, cut):
        data = model(
            helper.make_node("Conv", ["x", "w"], ["z"]),
            weights=[numpy_helper.from_array(np.ones((90, 3, 9, 9), np.float32), "w")],
        ).SerializeToString()
        with pytest.raises(ModelError, match="not an ONNX model, or is truncated"):
            opened(data[: len(data) * cut // 10])

    @pytest.mark.parametrize(
        "data",
        [b"\xff" * 30, b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\x7f", b"\x0b\x0c", b"\x3a\x05\x0a"],
    )
    def test_lengths_and_tags_that_are_none_are_no_model(self, data):
        with pytest.raises(ModelError, match="not an ONNX model"):
            opened(data)

    def test_more_parts_than_a_model_of_that_many_nodes_has_are_refused(self):
        data = relu().SerializeToString() + b"\x08\x09" * 200
        with pytest.raises(ModelError, match=r"has more than 80 parts.*limit of 20 nodes"):
            opened(data, limits=Limits(nodes=20))

    @pytest.mark.parametrize("depth", [200, 20_000])
    @pytest.mark.parametrize("filling", [0, 5000])
    def test_graphs_inside_each_other_without_end_are_no_model(self, depth, filling):
        """Graphs in attributes of nodes of graphs; what is inside is large, or is not."""
        data = bytes(filling)
        for _ in range(depth):
            for key in (0x32, 0x2A, 0x0A):  # a graph of an attribute of a node
                data = bytes([key]) + _varint(len(data)) + data
        data = b"\x08\x08\x3a" + _varint(len(data)) + data
        with pytest.raises(ModelError, match="not an ONNX model"):
            opened(data)


def _varint(number: int) -> bytes:
    written = bytearray()
    while number > 127:
        written.append(number & 127 | 128)
        number >>= 7
    return bytes([*written, number])

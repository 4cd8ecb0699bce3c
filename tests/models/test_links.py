"""A model whose file and weights are links, as in Hugging Face's cache: as in a plain folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from ibisa_onnx import Explainer
from ibisa_onnx.models.onnx_file import ModelFile
from ibisa_onnx.models.onnx_session import DeployedModel

SIDE = 8
PLAIN = {"preprocessing": "unit", "cache": False, "threads": 1}


def model() -> onnx.ModelProto:
    rng = np.random.default_rng(3)
    weights = rng.normal(size=(3 * SIDE * SIDE, 4)).astype(np.float32)
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
        [numpy_helper.from_array(weights, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def write(path: Path, location: str = "model.onnx_data") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"save_as_external_data": True, "location": location, "size_threshold": 0}
    onnx.save(model(), path, **options)
    return path


@pytest.fixture
def linked(tmp_path: Path) -> Path:
    """snapshots/abc/model.onnx and its weights are links into blobs/."""
    write(tmp_path / "made" / "model.onnx")
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "abc"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    for name, blob in (("model.onnx", "1111"), ("model.onnx_data", "2222")):
        (tmp_path / "made" / name).rename(blobs / blob)
        (snapshot / name).symlink_to(f"../../blobs/{blob}")
    return snapshot / "model.onnx"


@pytest.fixture
def picture() -> np.ndarray:
    return np.random.default_rng(4).integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)


def test_the_gradient_is_exact_and_the_map_a_plain_folders(linked, tmp_path, picture):
    plain = write(tmp_path / "plain" / "model.onnx")
    maps = [Explainer(path, **PLAIN).explain(picture) for path in (plain, linked)]
    assert maps[1].certificate.gradient == maps[0].certificate.gradient == "exact"
    np.testing.assert_array_equal(maps[1].map, maps[0].map)


def test_the_file_and_its_weights_are_hashed_as_in_a_plain_folder(linked, tmp_path):
    plain = write(tmp_path / "plain" / "model.onnx")
    opened = [DeployedModel.open(path, providers=["cpu"]) for path in (plain, linked)]
    assert opened[0].sha256 == opened[1].sha256
    assert opened[0].graph_sha256 == opened[1].graph_sha256


@pytest.mark.parametrize("words", [("gradient",), ("annotate", "--preprocess", "unit")])
@pytest.mark.parametrize("beside", [False, True])
def test_what_is_written_opens_wherever_it_is(cli, linked, tmp_path, words, beside):
    before = {path: path.readlink() for path in linked.parent.iterdir()}
    verb, *flags = words
    out = (linked.parent if beside else tmp_path / "out") / "new.onnx"
    out.parent.mkdir(exist_ok=True)
    result = cli(verb, str(linked), *flags, "-o", str(out))
    assert result.code == 0, result.err
    feeds = {"x": np.ones((1, 3, SIDE, SIDE), np.float32), "cotangent": np.ones((1, 4), np.float32)}
    session = onnxruntime.InferenceSession(out)
    needed = {each.name for each in session.get_inputs()}
    y = session.run(["y"], {name: feeds[name] for name in needed})[0]
    expected = feeds["x"].reshape(1, -1) @ numpy_helper.to_array(model().graph.initializer[0])
    np.testing.assert_allclose(y, expected, rtol=1e-4)
    assert {path: path.readlink() for path in before} == before


def test_weights_may_lie_in_the_folder_and_where_the_models_link_leads(linked, tmp_path):
    """Some here and some there: the folder above both is what ONNX Runtime is told."""
    proto = onnx.load(linked, load_external_data=False)
    (linked.parent / "more").write_bytes((tmp_path / "blobs" / "2222").read_bytes())
    second = proto.graph.initializer.add()
    second.CopyFrom(proto.graph.initializer[0])
    second.name, second.external_data[0].value = "w2", "more"
    graph, folder = ModelFile.at(linked).follow_links(proto)
    places = {(folder / each.external_data[0].value).resolve() for each in graph.graph.initializer}
    assert places == {tmp_path / "blobs" / "2222", linked.parent / "more"}
    assert not any(".." in each.external_data[0].value for each in graph.graph.initializer)

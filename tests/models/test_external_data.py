"""Files beside a model: only regular ones in its folder are opened, hashed or copied."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from ibisa_onnx.errors import ModelError, ResultError
from ibisa_onnx.models.external_data import load_weights, rename_weights, weight_places
from ibisa_onnx.models.model_parts import tensors
from ibisa_onnx.models.onnx_file import ModelFile
from ibisa_onnx.models.onnx_session import DeployedModel

SIDE = 4
SECRET = b"what no stranger may read" * 10


def external(name: str, location: str, **place: object) -> TensorProto:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[4])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **place}.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def model(*unused: TensorProto) -> onnx.ModelProto:
    """Means of the colours; ONNX Runtime drops what no node uses, and never looks at it."""
    graph = helper.make_graph(
        [helper.make_node("ReduceMean", ["x"], ["y"], axes=[2, 3], keepdims=0)],
        "means",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
        list(unused),
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def saved(path: Path, proto: onnx.ModelProto) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(proto.SerializeToString())
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model's folder, with what it may not reach beside it."""
    (tmp_path / "secret.bin").write_bytes(SECRET)
    (tmp_path / "model").mkdir()
    return tmp_path / "model"


def _link_out(folder: Path) -> str:
    (folder / "link").symlink_to(folder.parent / "secret.bin")
    return "link"


def _link_to_folder(folder: Path) -> str:
    (folder / "sub").symlink_to(folder.parent)
    return "sub/secret.bin"


def _loop(folder: Path) -> str:
    (folder / "loop").symlink_to("loop")
    return "loop"


def _pipe(folder: Path) -> str:
    os.mkfifo(folder / "pipe")
    return "pipe"


def _device(folder: Path) -> str:
    (folder / "zero").symlink_to("/dev/zero")
    return "zero"


def _socket(folder: Path) -> str:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.path.relpath(folder / "s"))  # a whole path may be too long
    return "s"


def _folder(folder: Path) -> str:
    (folder / "sub").mkdir()
    return "sub"


PLACES: dict[str, Callable[[Path], str]] = {
    "up": lambda _: "../secret.bin",
    "up and down": lambda _: "../model/../secret.bin",
    "up on Windows": lambda _: "..\\secret.bin",
    "absolute": lambda folder: str(folder.parent / "secret.bin"),
    "drive": lambda _: "C:\\secret.bin",
    "passwd": lambda _: "/etc/passwd",
    "zero": lambda _: "/dev/zero",
    "none": lambda _: "",
    "itself": lambda _: ".",
    "null byte": lambda _: "a\0b",
    "long": lambda _: "a" * 5000,
    "address": lambda _: "*/_ORT_MEM_ADDR_/*",
    "ours": lambda _: "given-as-a-value",
    "missing": lambda _: "missing",
    "link out": _link_out,
    "link to folder": _link_to_folder,
    "loop": _loop,
    "pipe": _pipe,
    "device": _device,
    "socket": _socket,
    "folder": _folder,
}


@pytest.mark.parametrize("way", PLACES)
def test_what_is_no_file_in_the_folder_is_refused_wherever_it_is_named(folder, tmp_path, cli, way):
    location = PLACES[way](folder)
    path = saved(folder / "m.onnx", model(external("w", location)))
    for use in (
        lambda: DeployedModel.open(path, providers=["cpu"]),
        ModelFile.at(path).sha256,
        ModelFile.at(path).graph_sha256,
        ModelFile.at(path).load_proto,
    ):
        with pytest.raises(ModelError, match="weights file"):
            use()
    before = sorted(tmp_path.rglob("*"))
    flags = ["--preprocess", "unit", "--resize", "stretch", "-o", "out/sub/a.onnx"]
    for verb in (["annotate", path, *flags], ["gradient", path, "-o", "out/sub/g.onnx"]):
        result = cli(*verb)
        assert result.code == 1, verb
        assert len(result.err.splitlines()) == 1
        assert "bug" not in result.err
    assert sorted(tmp_path.rglob("*")) == before


def sparse(location: str) -> onnx.SparseTensorProto:
    indices = helper.make_tensor("", TensorProto.INT64, [4], range(4))
    return onnx.SparseTensorProto(values=external("s", location), indices=indices, dims=[9])


def _everywhere(location: str) -> dict[str, onnx.ModelProto]:
    """Models that name a file in each place where protobuf has a tensor."""
    outer, tensor = model(), external("w", location)
    constant = helper.make_node("Constant", [], ["c"])
    constant.attribute.add(name="value", type=onnx.AttributeProto.TENSOR).t.CopyFrom(tensor)
    several = helper.make_node("Constant", [], ["c"])
    several.attribute.add(name="v", type=onnx.AttributeProto.TENSORS).tensors.append(tensor)
    thin = helper.make_node("Constant", [], ["c"])
    thin.attribute.add(name="sparse_value").sparse_tensor.CopyFrom(sparse(location))
    inner = helper.make_node("If", ["b"], ["z"], then_branch=model(tensor).graph)
    function = helper.make_function("f", "F", [], ["c"], [constant], [])
    default = helper.make_function("f", "F", [], [], [inner], [])
    found = {}
    for name, add in {
        "constant": lambda m: m.graph.node.append(constant),
        "several": lambda m: m.graph.node.append(several),
        "sparse constant": lambda m: m.graph.node.append(thin),
        "sparse": lambda m: m.graph.sparse_initializer.append(sparse(location)),
        "subgraph": lambda m: m.graph.node.append(inner),
        "function": lambda m: m.functions.append(function),
        "subgraph of a function": lambda m: m.functions.append(default),
        "training": lambda m: m.training_info.add().algorithm.CopyFrom(model(tensor).graph),
    }.items():
        found[name] = onnx.ModelProto()
        found[name].CopyFrom(outer)
        add(found[name])
    return found


@pytest.mark.parametrize("where", _everywhere(""))
def test_a_file_is_found_wherever_a_tensor_may_stand(folder, where):
    path = saved(folder / "m.onnx", _everywhere("../secret.bin")[where])
    with pytest.raises(ModelError, match=r"'\.\./secret\.bin'"):
        DeployedModel.open(path, providers=["cpu"])
    inside = _everywhere("w.bin")[where]
    (folder / "w.bin").write_bytes(bytes(16))
    assert weight_places(tensors(inside), path) == {"w.bin": folder / "w.bin"}
    assert weight_places(tensors(rename_weights(inside, {"w.bin": "w.bin"})), path)
    (folder / "w.bin").rename(folder / "other")
    assert list(weight_places(tensors(rename_weights(inside, {"w.bin": "other"})), path)) == [
        "other"
    ]


@pytest.mark.parametrize("key", ["offset", "length"])
@pytest.mark.parametrize(
    "value", ["x", "", "-1", "1.5", "0x10", " 1", "²", "1e3", str(2**63), "9" * 5000]
)
def test_a_place_in_a_file_is_a_whole_number(folder, key, value):
    (folder / "w.bin").write_bytes(bytes(64))
    path = saved(folder / "m.onnx", model(external("w", "w.bin", **{key: value})))
    with pytest.raises(ModelError, match=f"'w' has {key}") as caught:
        DeployedModel.open(path, providers=["cpu"])
    assert len(str(caught.value)) < 200


def test_what_else_is_said_of_a_file_is_passed_over(folder):
    (folder / "w.bin").write_bytes(bytes(64))
    tensor = external("w", "w.bin", offset=48, length=16, checksum="../x", basepath="/etc")
    path = saved(folder / "m.onnx", model(tensor))
    assert DeployedModel.open(path, providers=["cpu"]).sha256
    assert weight_places([tensor], path) == {"w.bin": folder / "w.bin"}


def test_two_locations_of_one_tensor_are_refused(folder):
    (folder / "w.bin").write_bytes(bytes(64))
    tensor = external("w", "w.bin")
    tensor.external_data.add(key="location", value="../secret.bin")
    path = saved(folder / "m.onnx", model(tensor))
    with pytest.raises(ModelError, match="two entries 'location'"):
        DeployedModel.open(path, providers=["cpu"])


def test_a_file_that_is_too_short_says_both_numbers(folder):
    (folder / "w.bin").write_bytes(bytes(64))
    path = saved(folder / "m.onnx", model(external("w", "w.bin", offset=60, length=16)))
    with pytest.raises(
        ModelError, match="truncated: it has 64 bytes, but the model reads up to 76"
    ):
        DeployedModel.open(path, providers=["cpu"])


def _used(location: str, names: tuple[str, ...] = ("a", "b")) -> onnx.ModelProto:
    """A model that adds external weights to the means."""
    proto = model(*(external(name, location.format(name), length=12) for name in names))
    for tensor in tensors(proto):
        tensor.dims[0] = 3
    proto.graph.node[0].output[0] = "m"
    for old, new, name in zip(("m", "a_"), ("a_", "y"), names, strict=True):
        proto.graph.node.append(helper.make_node("Add", [old, name], [new]))
    return proto


@pytest.mark.parametrize(
    ("location", "written"),
    [
        ("{}.bin", {"a.bin", "b.bin"}),
        ("sub/{}.bin", {"sub/a.bin", "sub/b.bin"}),
        ("{}/w.bin", {"a/w.bin", "b/w.bin"}),
        ("out.onnx", {"out.out.onnx"}),  # the name of the file to be written
        ("out.onnx/{}.bin", {"out.a.bin", "out.b.bin"}),
        ("out.onnx/{}/w.bin", {"out.w.bin", "out.1.w.bin"}),
    ],
)
def test_weights_are_written_beside_the_model_that_is_written(
    cli, folder, tmp_path, location, written
):
    proto = _used(location)
    for number, name in enumerate("ab"):
        place = folder / location.format(name)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(np.full(3, number + 1, np.float32).tobytes())
    path = saved(folder / "m.onnx", proto)
    expected = DeployedModel.open(path).run(np.ones((1, 3, SIDE, SIDE), np.float32))["y"]

    result = cli("annotate", path, "--preprocess", "unit", "--resize", "stretch",
                 "--size", str(SIDE), "-o", "new/out.onnx")  # fmt: skip

    assert result.code == 0, result.err
    new = tmp_path / "new"
    files = {str(each.relative_to(new)) for each in new.rglob("*") if each.is_file()}
    assert files == {"out.onnx", *written}
    answer = DeployedModel.open(new / "out.onnx").run(np.ones((1, 3, SIDE, SIDE), np.float32))
    np.testing.assert_array_equal(answer["y"], expected)


def test_nothing_is_copied_through_a_link_in_the_folder_that_is_written(cli, folder, tmp_path):
    outside, new = tmp_path / "outside", tmp_path / "new"
    outside.mkdir()
    new.mkdir()
    (new / "sub").symlink_to(outside)
    (new / "b.bin").symlink_to(outside / "b.bin")
    proto = _used("{}.bin")
    proto.graph.initializer[0].external_data[0].value = "sub/a.bin"
    (folder / "sub").mkdir()
    (folder / "sub" / "a.bin").write_bytes(bytes(12))
    (folder / "b.bin").write_bytes(bytes(12))
    path = saved(folder / "m.onnx", proto)
    result = cli("annotate", path, "--preprocess", "unit", "--resize", "stretch",
                 "--size", str(SIDE), "-o", "new/out.onnx")  # fmt: skip
    assert result.code == 0, result.err
    assert list(outside.iterdir()) == []
    assert {each.name for each in new.iterdir()} == {"sub", "b.bin", "out.onnx", "out.a.bin",
                                                     "out.b.bin"}  # fmt: skip


def test_weights_are_not_copied_from_or_onto_what_is_no_file(tmp_path):
    from ibisa_onnx.io.atomic import copy_files

    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_bytes(b"1")
    with pytest.raises(ResultError, match="pipe, not a regular weights file"):
        copy_files({tmp_path / "pipe": tmp_path / "new"})
    with pytest.raises(ResultError, match="exists and differs from"):
        copy_files({tmp_path / "file": tmp_path / "pipe"})
    assert {each.name for each in tmp_path.iterdir()} == {"pipe", "file"}


def test_weights_are_put_into_a_model_from_just_their_bytes(folder):
    values = np.arange(12, dtype=np.float32)
    (folder / "w.bin").write_bytes(values.tobytes())
    proto = model(
        external("part", "w.bin", offset=8, length=16), external("rest", "w.bin", offset=32)
    )
    load_weights(proto, folder / "m.onnx")
    for tensor, start in zip(proto.graph.initializer, (2, 8), strict=True):
        np.testing.assert_array_equal(numpy_helper.to_array(tensor), values[start : start + 4])
    proto = model(external("w", "../secret.bin"))
    with pytest.raises(ModelError, match="is not inside the model's folder"):
        load_weights(proto, folder / "m.onnx")


def test_a_session_that_was_opened_from_bytes_keeps_its_weights_to_itself(folder):
    """Whoever opened it told ONNX Runtime where they are; here they are not looked for."""
    for name in "ab":
        (folder / f"{name}.bin").write_bytes(bytes(12))
    data = _used("{}.bin").SerializeToString()
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", str(folder)
    )
    session = onnxruntime.InferenceSession(data, options, ["CPUExecutionProvider"])
    found = DeployedModel.open(session)
    assert found.sha256 == hashlib.sha256(data).hexdigest()
    assert found.proto() is not None
    with pytest.raises(ModelError, match="which cannot be found from bytes"):
        DeployedModel.open(data, providers=["cpu"])

"""A surrogate's file is told by its content, and runs no code unless that was allowed."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import re
import zipfile
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from ibisa_onnx import Explainer
from ibisa_onnx.demo import model_path, scene_path
from ibisa_onnx.errors import GradientError
from ibisa_onnx.gradients.surrogate import SurrogateGradient
from ibisa_onnx.gradients.surrogate_file import SurrogateFacts

Members = dict[str, bytes]


class _Net(torch.nn.Module):
    """With a weight and a constant, both of which an archive holds apart."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(3, 8))
        self.constant = torch.ones(8)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean((2, 3)) @ self.weight + self.constant


class _Touches:
    """What leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def _members(folder: Path) -> Members:
    """The files in an archive of `torch.export`, by their names behind the first folder."""
    batch = ({0: torch.export.Dim.DYNAMIC},)
    program = torch.export.export(_Net(), (torch.zeros(2, 3, 128, 128),), dynamic_shapes=batch)
    torch.export.save(program, folder / "plain.pt2")
    with zipfile.ZipFile(folder / "plain.pt2") as archive:
        members = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    if "models/model.json" not in members:
        pytest.skip("this version of torch writes another format")
    return members


def _pickled(touched: Path) -> bytes:
    buffer = io.BytesIO()
    torch.save(_Touches(touched), buffer)
    return buffer.getvalue()


def _change(config: bytes, **changes: Any) -> bytes:
    """A list of weights or constants with entries of the first changed."""
    content = json.loads(config)
    next(iter(content["config"].values())).update(changes)
    return json.dumps(content).encode()


def _sample_inputs(members: Members, touched: Path) -> None:
    members["data/sample_inputs/model.pt"] = _pickled(touched)


def _weights(members: Members, touched: Path) -> None:
    config = "data/weights/model_weights_config.json"
    members[config] = _change(members[config], use_pickle=True)
    members["data/weights/weight_0"] = _pickled(touched)


def _opaque_constants(members: Members, touched: Path) -> None:
    config = "data/constants/model_constants_config.json"
    members[config] = _change(members[config], path_name="opaque_obj_0", use_pickle=True)
    members["data/constants/opaque_obj_0"] = pickle.dumps(_Touches(touched))


def _legacy_constants(members: Members, touched: Path) -> None:
    members["data/constants/model.pt"] = _pickled(touched)


def _expressions(members: Members, touched: Path) -> None:
    code = f"__import__('pathlib').Path('{touched}').touch()"
    model = members["models/model.json"].decode()
    members["models/model.json"] = re.sub(
        r'"expr_str": "[^"]+"', lambda _: f'"expr_str": {json.dumps(code)}', model
    ).encode()


WAYS = (_sample_inputs, _weights, _opaque_constants, _legacy_constants, _expressions)


@pytest.fixture
def touched(tmp_path: Path) -> Path:
    """The file that each payload leaves behind."""
    return tmp_path / "touched"


@pytest.fixture(params=WAYS, ids=lambda way: way.__name__.strip("_"))
def payload(request: pytest.FixtureRequest, tmp_path: Path, touched: Path) -> Path:
    """An archive that runs code when torch opens it."""
    members = _members(tmp_path)
    request.param(members, touched)
    path = tmp_path / "payload.pt2"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, content in members.items():
            archive.writestr(f"payload/{name}", content)
    return path


def test_the_payloads_are_live(payload: Path, touched: Path) -> None:
    """What is refused below would be run: as it is where that was allowed."""
    with contextlib.suppress(GradientError):  # what was unpickled is no tensor
        SurrogateGradient(payload, "scores", trust=True)
    assert touched.exists()


@pytest.mark.parametrize("name", ["payload.pt2", "payload.onnx", "payload"])
def test_no_code_is_run_for_an_explainer(payload: Path, touched: Path, name: str) -> None:
    path = payload.rename(payload.with_name(name))
    with pytest.raises(GradientError, match="pass trust=True if you trust its author") as caught:
        Explainer(model_path(), surrogate=path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    with pytest.raises(GradientError):
        SurrogateGradient(path, "scores")
    assert not touched.exists()


@pytest.mark.parametrize(
    "args",
    [
        ("run", model_path(), scene_path(), "-o", "map.png", "--surrogate", "payload.pt2"),
        ("eval", model_path(), scene_path(), "--surrogate", "payload.pt2"),
        ("export", "payload.pt2", "-o", "made.onnx"),
    ],
    ids=lambda args: args[0],
)
def test_no_code_is_run_for_a_command(
    cli: Callable[..., Any], payload: Path, touched: Path, args: tuple[Any, ...]
) -> None:
    result = cli(*args)
    assert (result.code, result.out) == (1, "")
    assert len(result.err.splitlines()) == 1
    assert "payload.pt2 is a torch.export archive" in result.err
    assert "or pass --trust if you trust its author" in result.err
    assert not touched.exists()
    assert sorted(each.name for each in payload.parent.iterdir()) == ["payload.pt2", "plain.pt2"]


def test_a_file_that_becomes_an_archive_after_it_was_looked_at_is_not_opened(
    payload: Path, touched: Path
) -> None:
    content = payload.read_bytes()
    payload.write_bytes(b"\x08\x08")  # as ONNX files begin
    explainer = Explainer(model_path(), surrogate=payload)
    payload.write_bytes(content)
    with pytest.raises(GradientError, match="trust=True"):
        explainer.explain(scene_path())
    assert not touched.exists()


@pytest.mark.parametrize("flag", ["--trust", "--trust-surrogate"])
def test_trust_is_needed_for_an_archive_of_nothing_but_tensors(
    cli: Callable[..., Any], tmp_path: Path, flag: str
) -> None:
    _members(tmp_path)
    words = ("run", model_path(), scene_path(), "--gradient", "surrogate", "--surrogate")
    words = (*words, "plain.pt2", "--preset", "fast", "--json", "-o", "map.png")
    assert cli(*words).code == 1
    trusted = cli(*words, flag)
    assert trusted.code == 0, trusted.err
    assert json.loads(trusted.out)["certificate"]["gradient"] == "surrogate"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
def test_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "pipe.onnx"
    os.mkfifo(path)
    with pytest.raises(GradientError, match="is a pipe"):
        Explainer(model_path(), surrogate=path)


def test_weights_outside_of_the_folder_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "sent").mkdir()
    path = tmp_path / "sent" / "surrogate.onnx"
    graph = onnx.load(model_path())
    onnx.save(graph, path, save_as_external_data=True, location="w.data", size_threshold=0)
    (tmp_path / "sent" / "w.data").rename(tmp_path / "w.data")
    moved = onnx.load(path, load_external_data=False)
    for tensor in moved.graph.initializer:
        for entry in tensor.external_data:
            entry.value = "../w.data" if entry.key == "location" else entry.value
    onnx.save(moved, path)
    explainer = Explainer(model_path(), surrogate=path)
    with pytest.raises(
        GradientError, match=r"surrogate\.onnx cannot be used as a surrogate"
    ) as caught:
        explainer.explain(scene_path())
    assert "\n" not in str(caught.value)


# -- what it says of itself


def test_facts_are_read() -> None:
    said = '{"model": "m.onnx", "model_sha256": "abc", "graph_sha256": "d", "certified": false}'
    assert SurrogateFacts.read(said) == SurrogateFacts("m.onnx", "abc", "d", False)


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "7", "[" * 100_000, '{"model_sha256": 7, "certified": "no", "model": []}'),
        b"\xff\xfe\x00",
    ],
)
def test_what_cannot_be_read_is_not_said(text: str | bytes) -> None:
    assert SurrogateFacts.read(text) == SurrogateFacts(
        **{f.name: None for f in fields(SurrogateFacts)}
    )


def test_the_digest_covers_weights_beside_the_file(tmp_path: Path) -> None:
    graph = onnx.load(model_path())
    digests = set()
    for scale in (1, 2):
        for tensor in graph.graph.initializer:
            values = scale * onnx.numpy_helper.to_array(tensor)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype(values.dtype), tensor.name))
        path, options = tmp_path / "s.onnx", {"location": "s.data", "size_threshold": 0}
        (tmp_path / "s.data").unlink(missing_ok=True)
        copy = onnx.ModelProto()
        copy.CopyFrom(graph)
        onnx.save(copy, path, save_as_external_data=True, **options)
        explainer = Explainer(model_path(), surrogate=path)
        digests.add(explainer.settings["surrogate"])
        assert np.fromfile(tmp_path / "s.data", np.uint8).size > 0
    assert len(digests) == 2

"""The commands of docs/how-to/serving.md, against a running server."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from documentation.snippets import ROOT, Block, blocks
from hostile.base import encoded, model
from serving.running import SECONDS, Server, require, serving

from ibisa_onnx.commands.serve import command as serve
from ibisa_onnx.explanation import Explanation

require("kserve", "tritonclient", "yaml")

import yaml  # noqa: E402

BLOCKS = list(blocks((ROOT / "docs/how-to/serving.md").read_text()))
WORDS = ("model.onnx", "--preprocess", "unit", "--threads", "1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    (folder / "model.onnx").write_bytes(model().SerializeToString())
    (folder / "photo.jpg").write_bytes(encoded(".jpg"))
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    with serving(folder, *WORDS) as running:
        yield running


def _blocks(language: str, part: str) -> list[Block]:
    found = [each for each in BLOCKS if each.language == language and part in each.code]
    assert found, part
    return found


def test_the_curl_commands(server: Server, folder: Path) -> None:
    answers = []
    for block in _blocks("bash", "curl"):
        code = block.code.replace("http://127.0.0.1:8080", server.http)
        done = subprocess.run(
            ["bash", "-ec", code], cwd=folder, capture_output=True, check=True, timeout=SECONDS
        )
        answers.append(json.loads(done.stdout or (folder / "result.json").read_bytes()))
    first, second = answers
    (explanation,) = first["explanations"]
    assert set(explanation) == {"map", "explanation"}
    (output,) = second["outputs"]
    record = json.loads(output["data"][0])
    assert output["name"] == "explanation"
    assert set(Explanation.schema()["required"]) <= set(record)


def test_the_python_code(server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    (block,) = _blocks("python", "tritonclient")
    names: dict[str, Any] = {}
    exec(block.code.replace("127.0.0.1:8080", server.http.removeprefix("http://")), names)
    assert names["heat"].shape == (16, 24)
    assert (folder / "overlay.png").read_bytes().startswith(b"\x89PNG")


def test_the_serve_commands_parse() -> None:
    for block in _blocks("bash", "ibisa-onnx serve"):
        for line in block.commands:
            if "ibisa-onnx serve" in line:
                _parsed(shlex.split(line.partition("ibisa-onnx serve")[2]))


def _parsed(words: list[str]) -> dict[str, Any]:
    return dict(serve.make_context("serve", words).params)


def test_the_explainer_serves_under_the_services_name(folder: Path) -> None:
    (block,) = _blocks("yaml", "InferenceService")
    service = yaml.safe_load(block.code)
    (container,) = service["spec"]["explainer"]["containers"]
    assert container["args"][0] == "serve"
    name = service["metadata"]["name"]
    # What KServe's controller appends (pkg/apis/serving/v1beta1/explainer_custom.go).
    more = ["--model_name", name, "--predictor_host", f"{name}-predictor.default"]
    words = [*container["args"][1:], *more, "--http_port", "8080", "--workers", "2"]
    given = _parsed(words)
    assert (given["host"], given["kserve_port"], given["workers"]) == ("0.0.0.0", 8080, 2)
    local = [*WORDS, *more, "--http_port", "0"]
    with serving(folder, *local) as server:
        assert server.models == [name, f"{name}-explainer"]
        body = {"instances": [{"image": json.loads((folder / "image.json").read_text())}]}
        assert server.post(f"/v1/models/{name}:explain", body)[0] == 200


@pytest.fixture(autouse=True)
def _image(folder: Path) -> None:
    import base64

    text = base64.b64encode(encoded()).decode()
    (folder / "image.json").write_text(json.dumps({"b64": text}))


def test_the_page_names_every_option_and_metric() -> None:
    page = (ROOT / "docs/how-to/serving.md").read_text()
    listed = [each for each in serve.params if each.name.startswith("max_")]
    assert len(listed) == 5
    for option in listed:
        assert f"`{option.opts[0]}`" in page
    code = "from ibisa_onnx.serving import metrics; from prometheus_client import REGISTRY\n"
    code += "print(*[n for n in REGISTRY._names_to_collectors if n.startswith('ibisa_')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    names = {each.removesuffix("_created") for each in done.stdout.split()}
    assert len(names) >= 9
    endings = ("_total", "_bucket", "_sum", "_count")
    for name in names:
        bare = next((name.removesuffix(e) for e in endings if name.endswith(e)), name)
        assert f"`{bare}`" in page or f"`{bare}_total`" in page, name

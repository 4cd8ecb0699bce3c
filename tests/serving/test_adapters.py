"""The adapters for Triton and MLServer on real servers, asked by tritonclient."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serving.servers import Served, free_port, interpreter, library_path, started

from ibisa_onnx.demo import model_path, scene_path

client = pytest.importorskip("tritonclient.http", reason="needs the extra [remote]")

TRITON = """
import sys
from pytriton.triton import Triton, TritonConfig
import ibisa_onnx
from ibisa_onnx.serving.triton import bind

http, grpc, model = sys.argv[1:]
config = TritonConfig(
    http_address="127.0.0.1", http_port=int(http), grpc_address="127.0.0.1", grpc_port=int(grpc),
    allow_metrics=False,
)
with Triton(config=config) as server:
    bind(server, "demo", ibisa_onnx.Explainer(model, threads=1))
    server.serve()
"""


def _triton(folder: Path, served: Served) -> tuple[list[str], dict[str, str]]:
    python = interpreter("triton")
    (folder / "serve.py").write_text(TRITON)
    ports = [str(served.http), str(served.grpc)]
    return [python, str(folder / "serve.py"), *ports, str(model_path())], library_path(python)


def _mlserver(folder: Path, served: Served) -> tuple[list[str], dict[str, str]]:
    python = interpreter("mlserver")
    settings = {
        "host": "127.0.0.1",
        "http_port": served.http,
        "grpc_port": served.grpc,
        "metrics_port": free_port(),
        "parallel_workers": 0,
    }
    model = {
        "name": "demo-explainer",
        "implementation": "ibisa_onnx.serving.mlserver.ExplainerRuntime",
        "parameters": {"uri": str(model_path()), "extra": {"threads": 1, "max_batch": 1}},
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "demo").mkdir()
    (folder / "demo/model-settings.json").write_text(json.dumps(model))
    return [python, "-m", "mlserver.cli.main", "start", str(folder)], {"TMPDIR": str(folder)}


@pytest.fixture(scope="module", params=["triton", "mlserver"])
def server(request: pytest.FixtureRequest, tmp_path_factory) -> Iterator[tuple[str, Served]]:
    folder = tmp_path_factory.mktemp(request.param)
    served = Served(free_port(), free_port(), folder / "log")
    command, more = {"triton": _triton, "mlserver": _mlserver}[request.param](folder, served)
    with started(command, served, ["demo-explainer"], more):
        yield request.param, served


@pytest.fixture(scope="module")
def expected(server, tmp_path_factory) -> np.ndarray:
    """The map that `explain` returns in the server's own environment: NumPy 1 rounds otherwise."""
    code = (
        "import sys; import numpy as np; import ibisa_onnx as ibisa\n"
        "from ibisa_onnx.demo import model_path, scene_path\n"
        "found = ibisa.Explainer(model_path(), threads=1).explain(scene_path(), seed=3)\n"
        "np.save(sys.argv[1], found.map)\n"
    )
    path = tmp_path_factory.mktemp("expected") / "map.npy"
    subprocess.run([interpreter(server[0]), "-c", code, str(path)], check=True, timeout=120)
    return np.load(path)


def ask(kind: str, served: Served, image: bytes, **parameters: Any) -> Any:
    """Request a map and its record from the explainer."""
    binary = kind == "triton"  # MLServer has no binary tensors over HTTP
    given = client.InferInput("image", [1], "BYTES")
    if binary:
        given.set_data_from_numpy(np.array([image], object), binary_data=True)
    else:
        text = base64.b64encode(image).decode()
        given.set_data_from_numpy(np.array([text], object), binary_data=False)
    outputs = [client.InferRequestedOutput(e, binary_data=binary) for e in ("map", "explanation")]
    with client.InferenceServerClient(f"127.0.0.1:{served.http}", network_timeout=60) as asked:
        headers = None if binary else {"Content-Type": "application/json"}
        return asked.infer(
            "demo-explainer", [given], outputs=outputs, parameters=parameters, headers=headers
        )


def test_the_map_is_that_of_explain(server, expected) -> None:
    found = ask(*server, scene_path().read_bytes(), seed=3)
    np.testing.assert_array_equal(found.as_numpy("map").astype(np.float32), expected)
    record = json.loads(found.as_numpy("explanation").reshape(-1)[0])
    assert record["target"]["caption"] == "striped ball (1)"
    assert record["provenance"]["seed"] == 3


def test_a_bad_image_is_one_line_and_the_server_stays(server, expected) -> None:
    for image in (b"\x89no image", scene_path().read_bytes()[:500]):
        with pytest.raises(client.InferenceServerException) as error:
            ask(*server, image)
        said = str(error.value)
        assert "the image" in said
        assert "ibisa_onnx/" not in said
        if server[0] == "mlserver":  # pytriton adds a traceback of its own code
            assert "\n" not in said.strip()
    found = ask(*server, scene_path().read_bytes(), seed=3)
    np.testing.assert_array_equal(found.as_numpy("map").astype(np.float32), expected)


def ask_by_grpc(served: Served, image: bytes, target: str | None, **parameters: Any) -> Any:
    """Request everything from the explainer by gRPC."""
    import tritonclient.grpc as grpc

    given = [grpc.InferInput("image", [1], "BYTES")]
    given[0].set_data_from_numpy(np.array([image], object))
    if target is not None:
        given.append(grpc.InferInput("target", [1], "BYTES"))
        given[1].set_data_from_numpy(np.array([target.encode()], object))
    outputs = [grpc.InferRequestedOutput(each) for each in ("map", "overlay", "explanation")]
    with grpc.InferenceServerClient(f"127.0.0.1:{served.grpc}") as asked:
        return asked.infer(
            "demo-explainer", given, outputs=outputs, parameters=parameters, client_timeout=60
        )


def test_grpc_targets_and_parameters(server) -> None:
    kind, served = server
    image = scene_path().read_bytes()
    found = ask_by_grpc(served, image, "star", preset="fast", seed=4, deadline_ms=30_000)
    record = json.loads(found.as_numpy("explanation").reshape(-1)[0])
    assert record["target"]["label"] == "star"
    assert record["provenance"]["seed"] == 4
    assert record["completion"]["planned"] == 6  # steps of the preset
    map = found.as_numpy("map")
    assert (map.shape, map.dtype.kind) == ((480, 480), "f")
    overlay = bytes(found.as_numpy("overlay").reshape(-1)[0])
    if kind == "mlserver":  # whose codec writes base64 by gRPC too
        overlay = base64.b64decode(overlay) if not overlay.startswith(b"\x89PNG") else overlay
    assert overlay.startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("target", "parameters", "message"),
    [
        ("zebra", {}, "zebra"),
        (None, {"preset": "fats"}, "there is no preset 'fats'"),
        (None, {"seed": "x"}, "seed"),
        (None, {"tempo": 3}, "unknown parameter 'tempo'"),
    ],
)
def test_grpc_bad_requests_are_one_line(server, target, parameters, message) -> None:
    import tritonclient.grpc as grpc

    kind, served = server
    with pytest.raises(grpc.InferenceServerException) as error:
        ask_by_grpc(served, scene_path().read_bytes(), target, **parameters)
    assert message in str(error.value)
    if kind == "mlserver":
        assert error.value.status() == "StatusCode.INVALID_ARGUMENT"
        assert "\n" not in str(error.value).strip()


def test_metadata_declares_all_tensors(server) -> None:
    with client.InferenceServerClient(f"127.0.0.1:{server[1].http}") as asked:
        found = asked.get_model_metadata("demo-explainer")
    assert [each["name"] for each in found["inputs"]] == ["image", "target"]
    assert {each["name"] for each in found["outputs"]} == {"map", "overlay", "explanation"}

"""`ibisa-onnx serve`: real clients, limits, bad input, and how it ends."""

from __future__ import annotations

import concurrent.futures
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile.base import encoded, model, picture, write
from hostile.pictures import make as hostile_pictures
from serving.running import SECONDS, Server, image_input, infer, require, serving

require("kserve", "tritonclient", "opentelemetry")

import grpc  # noqa: E402
import tritonclient.grpc as triton_grpc  # noqa: E402
import tritonclient.http as triton_http  # noqa: E402
from tritonclient.grpc import service_pb2, service_pb2_grpc  # noqa: E402
from tritonclient.utils import InferenceServerException  # noqa: E402

OPTIONS = ("--preprocess", "unit", "--labels", "labels.txt", "--threads", "1")
EXPLAIN = infer("m-explainer")
FIRST = {"inputs": [image_input(encoded())], "outputs": [{"name": "map"}]}
ENDLESS = (
    *("--gradient", "forward-only", "--budget", "1200"),
    *("--workers", "1", "--max-batch", "1", "--deadline-ms", "60000"),
)
"""Options of a server whose explanations take seconds."""
SLOW = {**FIRST, "parameters": {"preset": "quality"}}


def _folder(folder: Path) -> Path:
    """Return a folder with a model m.onnx, an image p.png, and labels."""
    write(folder)
    (folder / "labels.txt").write_text("ant\nbee\ncat\ndog\nelk\n")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _folder(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    with serving(folder, "m.onnx", *OPTIONS, "--max-body", "1M") as running:
        yield running


@pytest.fixture
def own(tmp_path: Path) -> Path:
    (tmp_path / "served").mkdir()
    return _folder(tmp_path / "served")


def _expected(folder: Path, *words: str) -> np.ndarray:
    """Return the map that the command line writes."""
    out = folder / "out"
    subprocess.run(
        [
            *(sys.executable, "-m", "ibisa_onnx", "run", "m.onnx", "p.png", *OPTIONS),
            *("--with-data", "--overwrite", "-o", "out/", *words),
        ],
        cwd=folder,
        check=True,
        capture_output=True,
        timeout=SECONDS,
        env={**os.environ, "IBISA_ONNX_CACHE": "off"},
    )
    (file,) = out.glob("*.npy")
    found = np.load(file)
    shutil.rmtree(out)
    return found


def _triton(module: Any, url: str) -> Any:
    return module.InferenceServerClient(url.removeprefix("http://"))


def _triton_image(module: Any, value: Any, *, binary: bool = True) -> Any:
    """Return the input of an image: an array of pixels, or the bytes of a file."""
    array = value if isinstance(value, np.ndarray) else np.array([value], object)
    datatype = "BYTES" if array.dtype == object else "UINT8"
    found = module.InferInput("image", list(array.shape), datatype)
    if module is triton_grpc:
        found.set_data_from_numpy(array)
    else:
        found.set_data_from_numpy(array, binary_data=binary)
    return found


# --- clients that nobody here wrote ---------------------------------------------------------------


def test_triton_clients_get_the_command_lines_map(server: Server, folder: Path) -> None:
    expected, data = _expected(folder), encoded()
    http, remote = _triton(triton_http, server.http), _triton(triton_grpc, server.grpc)
    for name in ("map", "overlay", "explanation"):
        binary = [triton_http.InferRequestedOutput(name, binary_data=True)]
        found = http.infer("m-explainer", [_triton_image(triton_http, data)], outputs=binary)
        assert (found.as_numpy("map") is not None) == (name == "map")
    found = http.infer("m-explainer", [_triton_image(triton_http, data)])
    assert np.array_equal(found.as_numpy("map"), expected)
    pixels = _triton_image(triton_http, picture()[..., ::-1].copy(), binary=False)
    assert np.array_equal(http.infer("m-explainer", [pixels]).as_numpy("map"), expected)
    found = remote.infer("m-explainer", [_triton_image(triton_grpc, data)])
    assert np.array_equal(found.as_numpy("map"), expected)
    assert found.as_numpy("overlay")[0].startswith(b"\x89PNG")
    assert json.loads(found.as_numpy("explanation")[0])["maps"][0] == "map"


def test_target_and_parameters_are_the_command_lines(server: Server, folder: Path) -> None:
    expected = _expected(folder, "--target", "dog", "--seed", "4", "--preset", "fast")
    target = triton_grpc.InferInput("target", [1], "BYTES")
    target.set_data_from_numpy(np.array([b"dog"], object))
    found = _triton(triton_grpc, server.grpc).infer(
        "m-explainer",
        [_triton_image(triton_grpc, encoded()), target],
        parameters={"seed": 4, "preset": "fast", "deadline_ms": 30_000},
    )
    assert np.array_equal(found.as_numpy("map"), expected)
    assert json.loads(found.as_numpy("explanation")[0])["target"]["label"] == "dog"


KSERVE = """
import asyncio, base64, sys
import numpy as np
from kserve import InferenceRESTClient, InferRequest, InferInput, RESTConfig
from kserve.protocol.infer_type import RequestedOutput

async def main(url, file):
    data = open(file, "rb").read()
    image = InferInput("image", [1], "BYTES")
    image.set_data_from_numpy(np.array([data], object))
    request = InferRequest("m-explainer", [image], request_outputs=[RequestedOutput("map")])
    v2 = InferenceRESTClient(RESTConfig(protocol="v2", timeout=100))
    found = await v2.infer(url, request, model_name="m-explainer")
    np.save("v2.npy", found.outputs[0].as_numpy())
    body = {"instances": [{"image": {"b64": base64.b64encode(data).decode()}}]}
    v1 = InferenceRESTClient(RESTConfig(protocol="v1", timeout=100))
    found = await v1.explain(url, model_name="m", data=body)
    np.save("v1.npy", np.array(found["explanations"][0]["map"], np.float32))
    found = await v1.infer(url, model_name="m", data=body)
    assert len(found["predictions"][0]["probabilities"]) == 5, found

asyncio.run(main(*sys.argv[1:]))
"""


def test_kserves_client_gets_the_command_lines_map(server: Server, folder: Path) -> None:
    # Its protocol buffers and tritonclient's cannot be loaded into one process.
    command = [sys.executable, "-c", KSERVE, server.http, "p.png"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, done.stderr
    expected = _expected(folder)
    assert np.array_equal(np.load(folder / "v2.npy"), expected)
    assert np.array_equal(np.load(folder / "v1.npy"), expected)


def test_curl_gets_the_command_lines_map(server: Server, folder: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    (folder / "request.json").write_text(json.dumps(FIRST))
    done = subprocess.run(
        ["curl", "-sS", "-d", "@request.json", f"{server.http}{EXPLAIN}"],
        cwd=folder,
        capture_output=True,
        check=True,
        timeout=SECONDS,
    )
    (output,) = json.loads(done.stdout)["outputs"]
    found = np.array(output["data"], np.float32).reshape(output["shape"])
    assert np.array_equal(found, _expected(folder))


def test_metadata_names_what_a_model_takes_and_returns(server: Server) -> None:
    names = {"m": (["image"], ["probabilities", "predictions"], [5])}
    names["m-explainer"] = (["image", "target"], ["map", "overlay", "explanation"], [-1, -1])
    for name, (inputs, outputs, shape) in names.items():
        data = json.loads(server.get(f"/v2/models/{name}")[2])
        assert [each["name"] for each in data["inputs"]] == inputs
        assert [each["name"] for each in data["outputs"]] == outputs
        assert data["outputs"][0] == {"name": outputs[0], "datatype": "FP32", "shape": shape}
        message = _triton(triton_grpc, server.grpc).get_model_metadata(name, as_json=True)
        assert [each["name"] for each in message["outputs"]] == outputs
    assert json.loads(server.get("/v2")[2])["extensions"] == ["binary_tensor_data"]
    assert server.get("/v2/health/ready")[0] == 200
    assert _triton(triton_grpc, server.grpc).is_model_ready("m-explainer")


def test_only_this_machine_is_listened_to(server: Server) -> None:
    assert server.http.startswith("http://127.0.0.1:")
    assert server.grpc.startswith("127.0.0.1:")
    port = int(server.http.rsplit(":", 1)[1])
    listening = Path("/proc/net/tcp").read_text().splitlines()[1:]
    hosts = {line.split()[1].split(":")[0] for line in listening if f":{port:04X}" in line}
    assert "00000000" not in hosts


# --- bad input ------------------------------------------------------------------------------------

IMAGE = image_input(encoded())
BAD: dict[str, tuple[str, Any, int, str]] = {
    "no JSON": (EXPLAIN, b"{", 400, "not valid JSON"),
    "no object": (EXPLAIN, b"[1]", 400, "pass an object"),
    "no inputs": (EXPLAIN, {}, 400, "inputs is None"),
    "inputs of another type": (EXPLAIN, {"inputs": 1}, 400, "pass a list"),
    "an input without a name": (EXPLAIN, {"inputs": [{}]}, 400, "no name"),
    "no image": (EXPLAIN, {"inputs": []}, 400, "no image"),
    "another input": (EXPLAIN, {"inputs": [{**IMAGE, "name": "x"}]}, 400, "no input 'x'"),
    "an input twice": (EXPLAIN, {"inputs": [IMAGE, IMAGE]}, 400, "twice"),
    "another output": (EXPLAIN, {**FIRST, "outputs": [{"name": "x"}]}, 400, "no output 'x'"),
    "a huge shape": (EXPLAIN, {"inputs": [{**IMAGE, "shape": [10**9, 10**9, 3]}]}, 400, "elements"),
    "a negative shape": (EXPLAIN, {"inputs": [{**IMAGE, "shape": [-1]}]}, 400, "list of sizes"),
    "another datatype": (EXPLAIN, {"inputs": [{**IMAGE, "datatype": "X"}]}, 400, "datatype 'X'"),
    "two images": (
        EXPLAIN,
        {"inputs": [{**IMAGE, "shape": [2], "data": ["a", "b"]}]},
        400,
        "2 elements",
    ),
    "NaN": (EXPLAIN, b'{"inputs": [{"data": [NaN]}]}', 400, "not valid JSON"),
    "floats": (
        EXPLAIN,
        {"inputs": [{**IMAGE, "datatype": "FP32", "shape": [1, 1, 3], "data": [0.5, 1, 2]}]},
        400,
        "float64",
    ),
    "no image file": (EXPLAIN, {"inputs": [image_input(b"text")]}, 400, "image"),
    "a preset": (EXPLAIN, {**FIRST, "parameters": {"preset": "x"}}, 400, "no preset"),
    "a parameter": (EXPLAIN, {**FIRST, "parameters": {"deadline": 1}}, 400, "unknown parameter"),
    "a class": (
        EXPLAIN,
        {"inputs": [IMAGE, {"name": "target", "shape": [1], "datatype": "BYTES", "data": ["fox"]}]},
        400,
        "fox",
    ),
    "an output to explain": (
        EXPLAIN,
        {
            "inputs": [
                IMAGE,
                {
                    **{"name": "target", "shape": [1], "datatype": "BYTES"},
                    "data": ['{"raise": true, "output": "nope"}'],
                },
            ]
        },
        400,
        "nope",
    ),
    "no model": (infer("x"), FIRST, 404, "x"),
    "a version": ("/v2/models/m/versions/1/infer", FIRST, 501, "versions"),
    "no route": ("/v2/x", FIRST, 404, "Not Found"),
    "v1 without instances": ("/v1/models/m:explain", {}, 400, "instances"),
    "v1 with none": ("/v1/models/m:explain", {"instances": []}, 400, "empty"),
    "v1 with text": ("/v1/models/m:predict", b"text", 400, "not valid JSON"),
    "reloading": ("/v2/repository/models/m/load", {}, 501, "restart the server"),
    "unloading": ("/v2/repository/models/m/unload", {}, 501, "restart the server"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_requests_get_the_protocols_error(server: Server, name: str) -> None:
    path, body, code, message = BAD[name]
    status, headers, answer = server.post(path, body, {"Content-Type": "application/json"})
    assert (status, headers["content-type"]) == (code, "application/json")
    error = json.loads(answer)["error"]
    assert message in error
    assert "\n" not in error
    assert "Traceback" not in error


def test_damaged_binary_tensors(server: Server) -> None:
    for size, raw, message in (
        (4, b"\xff\xff\xff\xff", "damaged"),
        (9, b"1234", "4 bytes follow"),
        (2, b"12345", "3 bytes follow"),
    ):
        tensor = {**IMAGE, "parameters": {"binary_data_size": size}}
        del tensor["data"]
        head = json.dumps({"inputs": [tensor]}).encode()
        headers = {"Inference-Header-Content-Length": str(len(head))}
        status, _, answer = server.post(EXPLAIN, head + raw, headers)
        assert status == 400
        assert message in json.loads(answer)["error"]
    status, _, answer = server.post(EXPLAIN, b"{}", {"Inference-Header-Content-Length": "99"})
    assert status == 400
    assert "Inference-Header-Content-Length" in json.loads(answer)["error"]


def test_large_bodies_are_rejected_before_they_are_read(server: Server) -> None:
    connection = http.client.HTTPConnection(server.http.removeprefix("http://"), timeout=SECONDS)
    connection.putrequest("POST", EXPLAIN)
    connection.putheader("Content-Length", str(10**12))
    connection.endheaders()  # and no body
    answer = connection.getresponse()
    assert (answer.status, answer.getheader("connection")) == (413, "close")
    assert "1,000,000 bytes" in json.loads(answer.read())["error"]
    connection.close()
    with pytest.raises(InferenceServerException, match="RESOURCE_EXHAUSTED"):
        _triton(triton_grpc, server.grpc).infer(
            "m-explainer", [_triton_image(triton_grpc, bytes(2_000_000))]
        )
    assert server.post(EXPLAIN, FIRST)[0] == 200


def test_damaged_grpc_messages(server: Server) -> None:
    stub = service_pb2_grpc.GRPCInferenceServiceStub(grpc.insecure_channel(server.grpc))
    message = service_pb2.ModelInferRequest
    tensor = {"name": "image", "datatype": "UINT8", "shape": [10**9, 10**9, 3]}
    cases = {
        "elements": message(inputs=[tensor], raw_input_contents=[b"12"]),
        "does not match": message(inputs=[tensor], raw_input_contents=[b"1", b"2"]),
        "content type": message(inputs=[{**tensor, "datatype": "X"}]),
        "damaged": message(
            inputs=[{"name": "image", "datatype": "BYTES", "shape": [1]}],
            raw_input_contents=[b"\xff\xff\xff\xff"],
        ),
        "no image": message(),
        "protocol lacks": message(
            inputs=[{"name": "image", "datatype": "BYTES", "shape": [1]}],
            raw_input_contents=[len(encoded()).to_bytes(4, "little") + encoded()],
            parameters={"deadline_ms": service_pb2.InferParameter(double_param=2.5)},
        ),
    }
    for text, request in cases.items():
        request.model_name = "m-explainer"
        with pytest.raises(grpc.RpcError) as raised:
            stub.ModelInfer(request, timeout=SECONDS)
        assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT, text
        assert text in raised.value.details()
    with pytest.raises(grpc.RpcError) as raised:
        stub.ModelInfer(message(model_name="x"), timeout=SECONDS)
    assert raised.value.code() == grpc.StatusCode.NOT_FOUND
    with pytest.raises(grpc.RpcError) as raised:
        stub.RepositoryModelLoad(service_pb2.RepositoryModelLoadRequest(model_name="m"))
    assert raised.value.code() == grpc.StatusCode.UNIMPLEMENTED
    assert stub.ServerReady(service_pb2.ServerReadyRequest()).ready


def test_a_compressed_body_is_rejected(server: Server) -> None:
    status, _, answer = server.post(EXPLAIN, b"x", {"Content-Encoding": "gzip"})
    assert status == 415
    assert "compressed" in json.loads(answer)["error"]


def _hostile_files(folder: Path) -> Iterator[tuple[str, str, bytes]]:
    """Yield the name, the expectation and the bytes of every hostile image that is a file."""
    for case in hostile_pictures():
        if case.name in ("pipe", "zero", "null", "loop", "dangling", "memory", "hole"):
            continue  # files of the machine that a request cannot name
        case.build(folder)
        file = folder / "p.png"
        if file.is_file():
            yield case.name, case.expected, file.read_bytes()
            file.unlink()
        else:
            file.rmdir()


def _grpc_map(client: Any, data: bytes) -> np.ndarray:
    wanted = [triton_grpc.InferRequestedOutput("map")]
    found = client.infer("m-explainer", [_triton_image(triton_grpc, data)], outputs=wanted)
    return found.as_numpy("map")


def test_hostile_images_get_one_line_each(folder: Path, tmp_path: Path) -> None:
    with serving(folder, "m.onnx", *OPTIONS, "--max-pixels", "20M") as server:
        client = _triton(triton_grpc, server.grpc)
        before, seen = server.peak(), 0
        for name, expected, data in _hostile_files(tmp_path):
            status, _, answer = server.post(
                EXPLAIN, {"inputs": [image_input(data)], "outputs": [{"name": "map"}]}
            )
            assert status in {"refused": (400,), "explained": (200,)}.get(expected, (200, 400)), (
                name
            )
            if status == 200:
                _grpc_map(client, data)
            else:
                with pytest.raises(InferenceServerException) as raised:
                    _grpc_map(client, data)
                message = raised.value.message()
                assert raised.value.status() == "StatusCode.INVALID_ARGUMENT", (name, message)
                assert message == json.loads(answer)["error"]
                assert "\n" not in message
            seen += 1
        assert seen > 100
        # As JSON, a few bytes become an object each.
        for value in (b"0,", b"1.5,", b"[],", b"{},"):
            body = b'{"inputs": [' + value * (30_000_000 // len(value)) + b"0]}"
            for path in (EXPLAIN, "/v1/models/m:explain"):
                status, _, answer = server.post(path, body)
                assert status == 400
                assert "binary tensor" in json.loads(answer)["error"]
        assert server.post(EXPLAIN, FIRST)[0] == 200
        assert server.peak() - before < 1 << 30
        assert "Traceback" not in server.log.read_text()


# --- limits ---------------------------------------------------------------------------------------


def test_a_full_queue_rejects_at_once_and_serves_the_rest(own: Path) -> None:
    with serving(own, "m.onnx", *OPTIONS, "--max-queue", "1", "--workers", "1") as server:
        expected = np.array(
            json.loads(server.post(EXPLAIN, SLOW)[2])["outputs"][0]["data"], np.float32
        )
        with concurrent.futures.ThreadPoolExecutor(24) as threads:
            answers = list(threads.map(lambda _: server.post(EXPLAIN, SLOW), range(24)))
        codes = {status for status, _, _ in answers}
        assert codes == {200, 429}
        for status, headers, body in answers:
            if status == 429:
                assert int(headers["retry-after"]) >= 1
                assert "retry" in json.loads(body)["error"]
            else:
                found = np.array(json.loads(body)["outputs"][0]["data"], np.float32)
                assert np.array_equal(found, expected)
        assert server.metric("ibisa_rejections_total") > 0
        assert server.metric("ibisa_queue_length") == 0


def test_a_deadline_is_shortened_to_the_longest(own: Path) -> None:
    with serving(own, "m.onnx", *OPTIONS, "--max-deadline-ms", "0.001") as server:
        body = {**FIRST, "parameters": {"deadline_ms": 60_000}}
        status, _, answer = server.post(EXPLAIN, body)
        assert status == 504
        assert "deadline" in json.loads(answer)["error"]
        with pytest.raises(InferenceServerException, match="DEADLINE_EXCEEDED"):
            _triton(triton_grpc, server.grpc).infer(
                "m-explainer", [_triton_image(triton_grpc, encoded())]
            )


def test_several_models(own: Path) -> None:
    other = model(metadata={"labels": "no"})
    (own / "other.onnx").write_bytes(other.SerializeToString())
    with serving(own, "m.onnx", "second=other.onnx", *OPTIONS) as server:
        assert server.models == ["m", "second", "m-explainer", "second-explainer"]
        for name in server.models:
            assert server.post(infer(name), {"inputs": [IMAGE]})[0] == 200
        assert json.loads(server.get("/v1/models")[2])["models"]


def test_a_changed_file_is_not_served(own: Path) -> None:
    with serving(own, "m.onnx", *OPTIONS) as server:
        before = json.loads(server.post(EXPLAIN, FIRST)[2])["outputs"][0]["data"]
        (own / "m.onnx").write_bytes(b"no model")
        status, _, answer = server.post(EXPLAIN, {**FIRST, "parameters": {"preset": "standard"}})
        assert status == 200
        assert json.loads(answer)["outputs"][0]["data"] == before
        value = {"name": "target", "shape": [1], "datatype": "BYTES", "data": ['{"raise": true}']}
        value["data"] = [json.dumps({"raise": True, "index": "0"})]
        assert server.post(EXPLAIN, {"inputs": [IMAGE, value]})[0] == 200


def test_the_command_lines_errors_are_one_line(own: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        cases = {
            ("m.onnx", "--http-port", port): (1, "choose another --host or --http-port"),
            ("m.onnx", "--http-port", "0", "--grpc-port", port): (1, "choose another --grpc-port"),
            ("m.onnx", "a/m.onnx"): (2, "two models are named 'm'"),
            ("a b.onnx",): (2, "cannot be part of a URL"),
            ("m.onnx", "m-explainer=m.onnx"): (2, "is the explainer of 'm'"),
            ("missing.onnx", "--http-port", "0"): (1, "missing.onnx"),
            ("m.onnx", "--max-body", "0"): (2, "not an integer"),
            ("m=grpc://127.0.0.1:1/m",): (2, "pass its http:// address"),
        }
        for words, (code, message) in cases.items():
            done = subprocess.run(
                [sys.executable, "-m", "ibisa_onnx", "serve", *words, *OPTIONS],
                cwd=own,
                capture_output=True,
                text=True,
                timeout=SECONDS,
            )
            assert done.returncode == code, (words, done.stderr)
            errors = [line for line in done.stderr.splitlines() if "error:" in line]
            assert len(errors) == 1
            assert message in errors[0]


# --- how it ends ----------------------------------------------------------------------------------


def _wait(until: Callable[[], bool]) -> None:
    """Wait until something holds; pytest's own time limit ends a test that hangs."""
    end = time.monotonic() + SECONDS
    while not until():
        assert time.monotonic() < end, "it never held"
        time.sleep(0.02)


class _Load:
    """Clients in threads, each with a request in progress."""

    def __init__(self, server: Server, clients: int) -> None:
        self.answers: list[int | str] = []
        self._server = server
        self._threads = [threading.Thread(target=self._send) for _ in range(clients)]
        for each in self._threads:
            each.start()

    def _send(self) -> None:
        try:
            self.answers.append(self._server.post(EXPLAIN, FIRST)[0])
        except OSError as error:
            self.answers.append(type(error).__name__)

    def join(self) -> list[int | str]:
        for each in self._threads:
            each.join(SECONDS)
        return self.answers


def test_sigterm_lets_the_requests_in_progress_finish(own: Path) -> None:
    with serving(own, "m.onnx", *OPTIONS, *ENDLESS) as server:
        load = _Load(server, 3)
        names = ("ibisa_in_flight", "ibisa_queue_length")
        _wait(lambda: sum(server.metric(each) for each in names) == 3)
        assert server.end(signal.SIGTERM) == 0
        assert load.join() == [200] * 3


def test_a_second_signal_cancels_the_requests_in_progress(own: Path) -> None:
    words = (*OPTIONS, *ENDLESS, "--budget", "20000")  # minutes
    with serving(own, "m.onnx", *words) as server:
        load = _Load(server, 2)
        _wait(lambda: server.metric("ibisa_in_flight") == 1)
        server.process.send_signal(signal.SIGTERM)
        _wait(lambda: '"stopping"' in server.log.read_text())
        assert server.end(signal.SIGTERM) == 0
        assert 200 not in load.join()
        assert "did not finish in time" in server.log.read_text()


def test_kill_loses_the_requests_in_progress_and_nothing_else(own: Path) -> None:
    files = sorted(own.rglob("*"))
    with serving(own, "m.onnx", *OPTIONS, *ENDLESS) as server:
        before = server.post(infer("m"), {"inputs": [IMAGE]})[2]
        load = _Load(server, 3)
        _wait(lambda: server.metric("ibisa_in_flight") > 0)
        assert server.end(signal.SIGKILL) == -signal.SIGKILL
        assert len(load.join()) == 3
        port = int(server.http.rsplit(":", 1)[1])
    assert sorted(own.rglob("*")) == files
    with serving(own, "m.onnx", *OPTIONS, port=port) as server:
        again = json.loads(server.post(infer("m"), {"inputs": [IMAGE]})[2])["outputs"]
        assert again == json.loads(before)["outputs"]


def test_a_client_that_disconnects_ends_its_work(own: Path) -> None:
    with serving(own, "m.onnx", *OPTIONS, *ENDLESS) as server:
        for cancelled in (1, 2):
            connection = http.client.HTTPConnection(server.http.removeprefix("http://"))
            connection.request("POST", EXPLAIN, json.dumps(FIRST))
            _wait(lambda: server.metric("ibisa_in_flight") > 0)
            connection.close()
            _wait(lambda n=cancelled: server.metric("ibisa_cancellations_total") == n)
            _wait(lambda: server.metric("ibisa_in_flight") == 0)


def test_a_grpc_client_that_gives_up_ends_its_work(own: Path) -> None:
    with serving(own, "m.onnx", *OPTIONS, *ENDLESS) as server:
        client = _triton(triton_grpc, server.grpc)
        with pytest.raises(InferenceServerException, match="Deadline Exceeded"):
            client.infer("m-explainer", [_triton_image(triton_grpc, encoded())], client_timeout=0.2)
        _wait(lambda: server.metric("ibisa_cancellations_total") == 1)
        _wait(lambda: server.metric("ibisa_in_flight") == 0)


def test_a_waiting_request_whose_client_is_gone_leaves_the_queue(own: Path) -> None:
    with serving(own, "m.onnx", *OPTIONS, *ENDLESS, "--max-queue", "1") as server:
        address = server.http.removeprefix("http://")
        running, waiting = (http.client.HTTPConnection(address) for _ in range(2))
        running.request("POST", EXPLAIN, json.dumps(FIRST))
        _wait(lambda: server.metric("ibisa_in_flight") == 1)
        waiting.request("POST", EXPLAIN, json.dumps(FIRST))
        _wait(lambda: server.metric("ibisa_queue_length") == 1)
        assert server.post(EXPLAIN, FIRST)[0] == 429
        waiting.close()
        _wait(lambda: server.metric("ibisa_queue_length") == 0)
        running.close()


# --- what it reports ------------------------------------------------------------------------------


def test_metrics_and_logs(own: Path) -> None:
    with serving(own, "m.onnx", *OPTIONS) as server:
        status, _, answer = server.post(EXPLAIN, {"inputs": [IMAGE]})
        assert status == 200
        outputs = {each["name"]: each["data"][0] for each in json.loads(answer)["outputs"]}
        passes = json.loads(outputs["explanation"])["passes"]
        total = passes["forward"] + passes["backward"]
        assert server.metric("ibisa_passes_total") == total
        assert server.metric("ibisa_request_seconds_count") == 1
        assert server.metric("ibisa_explanations_total") == 1
        assert server.metric("ibisa_fidelity_failures_total") == 0
        assert server.post(EXPLAIN, {})[0] == 400
        server.end()
        lines = [json.loads(line) for line in server.log.read_text().splitlines()]
        rejected = next(each for each in lines if each["message"] == "rejected")
        assert (rejected["status"], rejected["level"]) == (400, "info")
        assert "inputs" in rejected["reason"]
        explained = next(each for each in lines if each["message"] == "explained")
        assert explained["forward"] + explained["backward"] == total
        assert any(each.get("path") == EXPLAIN and each["status"] == 200 for each in lines)


TRACED = """
import sys
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult

class File(SpanExporter):
    def export(self, spans):
        with open("spans.txt", "a") as file:
            for each in spans:
                parent = each.parent.span_id if each.parent else 0
                print(each.context.trace_id, parent, each.context.span_id, each.name, file=file)
        return SpanExportResult.SUCCESS

provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(File()))
trace.set_tracer_provider(provider)
from ibisa_onnx.__main__ import main
main()
"""


def test_traces_continue_the_callers(own: Path) -> None:
    (own / "traced.py").write_text(TRACED)
    traceparent = f"00-{'a' * 32}-{'b' * 16}-01"
    with serving(own, "m.onnx", *OPTIONS, command=(sys.executable, "traced.py")) as server:
        assert server.post(EXPLAIN, FIRST, {"traceparent": traceparent})[0] == 200
        assert server.post(infer("m"), {"inputs": [IMAGE]}, {"traceparent": traceparent})[0] == 200
        server.end()
    spans = [line.split(" ", 3) for line in (own / "spans.txt").read_text().splitlines()]
    assert {int(trace) for trace, *_ in spans} == {int("a" * 32, 16)}
    names = [name for *_, name in spans]
    assert {"explain m", "predict m", "decode", "explain", "predict", "encode"} <= set(names)
    roots = {name: int(parent) for _, parent, _, name in spans if name.endswith(" m")}
    assert set(roots.values()) == {int("b" * 16, 16)}

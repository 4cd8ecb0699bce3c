"""A model behind gRPC, on a server that can be made to fail; see `test_remote.py`."""

# ruff: noqa: N802 - the protocol names the methods

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tritonclient.grpc", reason="needs the extra [remote]")

import grpc
from serving.fake_server import LABELS, SIDE, SQUARES, scene, scores
from tritonclient.grpc import service_pb2, service_pb2_grpc

import ibisa_onnx as ibisa
from ibisa_onnx.errors import DeadlineError, OutputError, RemoteError

USUAL: dict[str, Any] = {
    "preprocessing": "unit",
    "overrides": {"resize": "stretch"},
    "labels": LABELS,
    "budget": 60,
}


@dataclass
class Fake:
    """What the server does: `act` may end the call, and returns the scores."""

    act: Callable[[Any, np.ndarray], np.ndarray] = lambda context, values: values
    raw: bool = True
    port: int = 0
    calls: int = 0
    metadata: list[dict[str, Any]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"grpc://127.0.0.1:{self.port}/squares"


def servicer(fake: Fake) -> Any:
    class Servicer(service_pb2_grpc.GRPCInferenceServiceServicer):
        def ServerLive(self, request: Any, context: Any) -> Any:
            return service_pb2.ServerLiveResponse(live=True)

        def ServerMetadata(self, request: Any, context: Any) -> Any:
            return service_pb2.ServerMetadataResponse(name="fake", version="1")

        def ModelReady(self, request: Any, context: Any) -> Any:
            return service_pb2.ModelReadyResponse(ready=True)

        def ModelMetadata(self, request: Any, context: Any) -> Any:
            found = service_pb2.ModelMetadataResponse(name="squares", versions=["3"])
            found.inputs.add(name="images", datatype="FP32", shape=[-1, 3, SIDE, SIDE])
            found.outputs.add(name="scores", datatype="FP32", shape=[-1, 3])
            return found

        def ModelInfer(self, request: Any, context: Any) -> Any:
            fake.calls += 1
            fake.metadata.append(dict(context.invocation_metadata()))
            shape = [*request.inputs[0].shape]
            images = np.frombuffer(request.raw_input_contents[0], np.float32).reshape(shape)
            values = fake.act(context, scores(images))
            found = service_pb2.ModelInferResponse(model_name="squares")
            output = found.outputs.add(name="scores", datatype="FP32", shape=[len(images), 3])
            if fake.raw:
                found.raw_output_contents.append(values.tobytes())
            else:
                output.contents.fp32_contents.extend(values.ravel().tolist())
            return found

    return Servicer()


@pytest.fixture
def fake() -> Iterator[Fake]:
    found = Fake()
    server = grpc.server(ThreadPoolExecutor(8))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer(found), server)
    found.port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield found
    server.stop(None).wait()


def explainer_of(model: Any) -> ibisa.Explainer:
    return ibisa.Explainer(model, **USUAL)


@pytest.mark.parametrize("raw", [True, False], ids=["bytes", "numbers"])
def test_is_explained_as_in_this_process(raw: bool, fake: Fake):
    fake.raw = raw
    found = explainer_of(fake.url).explain(scene(red=230, green=180), "green")
    local = ibisa.Explainer(scores, ibisa.InputSpec((None, 3, SIDE, SIDE)), **USUAL)
    assert found.map.tobytes() == local.explain(scene(red=230, green=180), "green").map.tobytes()
    left, top, right, bottom = SQUARES["green"]
    row, column = np.unravel_index(found.map.argmax(), found.map.shape)
    assert top <= row < bottom
    assert left <= column < right
    assert fake.calls == found.passes.forward_calls


CODES = {
    "RESOURCE_EXHAUSTED": r"too many requests \(RESOURCE_EXHAUSTED\): said so",
    "INVALID_ARGUMENT": r"the request was rejected \(INVALID_ARGUMENT\): said so",
    "NOT_FOUND": "no such model or version",
    "UNAVAILABLE": r"the model is not ready \(UNAVAILABLE\): said so",
    "UNAUTHENTICATED": r"access denied \(UNAUTHENTICATED\): said so; set IBISA_ONNX_AUTHORIZATION",
    "INTERNAL": r"the server failed \(INTERNAL\): said so",
}


@pytest.mark.parametrize("code", CODES)
def test_a_call_that_fails_gets_one_line_and_is_not_repeated(code: str, fake: Fake):
    explainer = explainer_of(fake.url)
    fake.act = lambda context, values: context.abort(grpc.StatusCode[code], "said so")
    with pytest.raises(RemoteError, match=CODES[code]) as caught:
        explainer.explain(scene(red=230))
    assert "\n" not in str(caught.value)
    assert fake.calls == 1


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        (lambda values: values * np.nan, OutputError, "NaN or infinite"),
        (lambda values: values[:, :2], RemoteError, "the response breaks the protocol"),
    ],
    ids=["NaN", "truncated"],
)
def test_a_broken_response_is_told(change: Any, error: Any, said: str, fake: Fake):
    explainer = explainer_of(fake.url)
    fake.act = lambda context, values: change(values)
    with pytest.raises(error, match=said):
        explainer.predict(scene(red=230))


@pytest.mark.parametrize("limited", [False, True], ids=["time-out", "time limit"])
def test_a_slow_call_is_ended_and_cancelled_on_the_server(limited: bool, fake: Fake):
    ended = threading.Event()
    explainer = explainer_of(ibisa.RemoteModel(fake.url, timeout=30 if limited else 0.3))

    def wait(context: Any, values: np.ndarray) -> np.ndarray:
        context.add_callback(ended.set)
        ended.wait(60)
        return values

    fake.act = wait
    if limited:
        with ibisa.time_limit(0.3), pytest.raises(DeadlineError):
            explainer.predict(scene(red=230))
    else:
        with pytest.raises(RemoteError, match=r"no response within 0\.3 s"):
            explainer.predict(scene(red=230))
    assert ended.wait(30)
    fake.act = lambda context, values: values
    assert explainer.predict(scene(red=230))[0].label == "red"


def test_a_refused_connection_is_retried_and_reported():
    with pytest.raises(RemoteError, match=r"cannot connect \(3 attempts\): .*refused"):
        ibisa.RemoteModel("grpc://127.0.0.1:1/squares")


def test_headers_are_sent_and_their_values_never_shown(fake: Fake):
    secret = "Bearer very-secret-token"
    explainer = explainer_of(ibisa.RemoteModel(fake.url, headers={"Authorization": secret}))

    def echo(context: Any, values: np.ndarray) -> np.ndarray:
        context.abort(grpc.StatusCode.INTERNAL, fake.metadata[-1]["authorization"])

    fake.act = echo
    with pytest.raises(RemoteError) as caught:
        explainer.predict(scene(red=230))
    assert fake.metadata[-1]["authorization"] == secret
    assert "secret" not in str(caught.value)


def test_concurrent_calls_are_not_mixed_up(fake: Fake):
    model = ibisa.RemoteModel(fake.url, max_batch=1, max_concurrency=8)
    images = np.random.default_rng(0).random((200, 3, SIDE, SIDE), np.float32)
    assert np.array_equal(model.run(images)["scores"], scores(images))

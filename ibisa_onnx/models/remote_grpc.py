"""The Open Inference Protocol v2 over gRPC, by tritonclient.

gRPC connects in the background and reconnects on its own; it repeats a call only if the server
provably has not seen it.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ibisa_onnx.errors import RemoteError
from ibisa_onnx.imports import import_extra
from ibisa_onnx.models.endpoint import Endpoint
from ibisa_onnx.models.remote_errors import Failure, Reporter
from ibisa_onnx.models.remote_http import Waiting
from ibisa_onnx.models.running import endable

_ATTEMPTS, _PAUSE = 3, 0.2  # connections; seconds before the second, doubled for the third
_FAILURES = {
    "INVALID_ARGUMENT": Failure.REJECTED,
    "OUT_OF_RANGE": Failure.REJECTED,
    "UNAUTHENTICATED": Failure.UNAUTHORISED,
    "PERMISSION_DENIED": Failure.UNAUTHORISED,
    "NOT_FOUND": Failure.UNKNOWN,
    "RESOURCE_EXHAUSTED": Failure.BUSY,
    "FAILED_PRECONDITION": Failure.UNAVAILABLE,
    "UNAVAILABLE": Failure.UNAVAILABLE,
}
_TOO_LARGE = "message larger than max"
_CONTENTS = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    "INT64": "int64_contents",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
}
"""Fields of outputs that are not sent as bytes, by datatype."""


class GrpcServer:
    """A model on a server, by gRPC. Thread-safe.

    Parameters and errors are those of `remote_http.HttpServer`; gRPC limits a response to 2 GiB.
    """

    protocol = "gRPC"

    def __init__(
        self,
        endpoint: Endpoint,
        headers: Mapping[str, str],
        reporter: Reporter,
        waiting: Waiting,
        certificates: str | None,
    ) -> None:
        self._endpoint, self._headers, self._reporter = endpoint, dict(headers), reporter
        self._waiting, self._certificates = waiting, certificates
        self.binary = True
        self._library: Any = import_extra("tritonclient.grpc", "remote")
        self._starting = threading.Lock()
        self._clients: dict[int, Any] = {}  # by process: a channel does not survive a fork

    def facts(self) -> Mapping[str, Any]:
        """Return name, version and extensions of the server; empty if it does not tell."""
        self._connect()
        try:
            found = self._call(self._client.get_server_metadata)
        except RemoteError:
            return {}
        return {"name": found.name, "version": found.version, "extensions": [*found.extensions]}

    def is_ready(self) -> bool:
        """Return whether the model is ready; True if the server does not tell."""
        try:
            return bool(self._call(self._client.is_model_ready, *self._named))
        except RemoteError:
            return True

    def model(self) -> Mapping[str, Any]:
        """Return the model's metadata."""
        found = self._call(self._client.get_model_metadata, *self._named)
        return {
            "name": found.name,
            "versions": [*found.versions],
            "platform": found.platform,
            "inputs": [_tensor(each) for each in found.inputs],
            "outputs": [_tensor(each) for each in found.outputs],
        }

    def config(self) -> Mapping[str, Any]:
        """Return the model's configuration, an extension of Triton; empty if there is none."""
        try:
            found = self._call(self._client.get_model_config, *self._named).config
        except RemoteError:
            return {}
        return {"max_batch_size": found.max_batch_size}

    def infer(
        self, feeds: Mapping[str, npt.NDArray[Any]], outputs: Sequence[str] | None
    ) -> dict[str, npt.NDArray[Any]]:
        """Run the model once, as `HttpServer.infer`."""
        from tritonclient.utils import (  # type: ignore[import-not-found,unused-ignore]
            np_to_triton_dtype,
        )

        inputs = [
            self._library.InferInput(
                name, list(value.shape), np_to_triton_dtype(value.dtype)
            ).set_data_from_numpy(value)
            for name, value in feeds.items()
        ]
        wanted = [self._library.InferRequestedOutput(each) for each in outputs or ()]
        done: queue.SimpleQueue[tuple[Any, Any]] = queue.SimpleQueue()
        with self._starting:  # or the client may return another thread's call
            call = self._client.async_infer(
                self._endpoint.name,
                inputs,
                lambda result, error: done.put((result, error)),
                model_version=self._endpoint.version,
                outputs=wanted or None,
                client_timeout=self._waiting.call,
                headers=self._headers,
            )
        with endable(self._endpoint.url, call.cancel) as check:
            try:
                check()
                result, error = done.get()  # the call's own time-out ends it
            except BaseException:
                call.cancel()
                raise
            if error is not None:
                check()
                raise self._failed(error) from error
        return self._decoded(result)

    def _decoded(self, result: Any) -> dict[str, npt.NDArray[Any]]:
        """Read the outputs of a response."""
        try:
            response = result.get_response()
            if response.raw_output_contents:
                return {each.name: result.as_numpy(each.name) for each in response.outputs}
            return {each.name: _typed(each) for each in response.outputs}
        except Exception as error:  # whatever malformed data raises
            raise self._reporter.unreadable(f"{type(error).__name__}: {error}") from error

    @property
    def _named(self) -> tuple[str, str]:
        return self._endpoint.name, self._endpoint.version

    @property
    def _client(self) -> Any:
        """The client of this process."""
        process = os.getpid()
        if process not in self._clients:
            host = self._endpoint.host
            host = f"[{host}]" if ":" in host else host
            self._clients = {
                process: self._library.InferenceServerClient(
                    f"{host}:{self._endpoint.port}",
                    ssl=self._endpoint.is_encrypted,
                    root_certificates=self._certificates,
                )
            }
        return self._clients[process]

    def _connect(self) -> None:
        """Wait for the first connection; a refused one is retried."""
        pause = _PAUSE
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                self._client.is_server_live(self._headers, client_timeout=self._waiting.connect)
            except self._error as error:
                code = _code(error)
                if code == "UNAVAILABLE" and attempt < _ATTEMPTS:
                    time.sleep(pause)
                    pause *= 2
                elif code == "DEADLINE_EXCEEDED":
                    why = f"no connection within {self._waiting.connect:g} s"
                    raise self._reporter.unreachable(why, attempt) from error
                elif code == "UNAVAILABLE":
                    raise self._reporter.unreachable(str(error.message()), attempt) from error
                else:
                    return  # connected; later calls report what is wrong
            else:
                return

    def _call(self, method: Callable[..., Any], *args: str) -> Any:
        """Make one call that does not run the model."""
        with endable(self._endpoint.url) as check:
            check()
            try:
                return method(*args, headers=self._headers, client_timeout=self._waiting.call)
            except self._error as error:
                check()
                raise self._failed(error) from error

    @property
    def _error(self) -> Any:
        return import_extra("tritonclient.utils", "remote").InferenceServerException

    def _failed(self, error: Any) -> RemoteError:
        """Return the error for a failed call."""
        code, said = _code(error), str(error.message())
        if code == "DEADLINE_EXCEEDED":
            return self._reporter.late(self._waiting.call)
        if code == "UNAVAILABLE" and "connect" in said.lower():
            return self._reporter.unreachable(said)
        if code == "UNAVAILABLE" and "socket" in said.lower():
            return self._reporter.lost(said)
        failure = _FAILURES.get(code, Failure.FAILED)
        if _TOO_LARGE in said:  # a request has not run, but a response has
            failure = Failure.LARGE if "Sent" in said else Failure.REJECTED
        return self._reporter.failed(failure, code, said)


def _code(error: Any) -> str:
    """Return the name of a call's status code."""
    return str(error.status()).rpartition(".")[2]


def _tensor(found: Any) -> dict[str, Any]:
    return {"name": found.name, "datatype": found.datatype, "shape": [*found.shape]}


def _typed(output: Any) -> npt.NDArray[Any]:
    """Return an output whose values are not sent as bytes."""
    from tritonclient.utils import triton_to_np_dtype

    values = getattr(output.contents, _CONTENTS[output.datatype])
    return np.array(values, triton_to_np_dtype(output.datatype)).reshape([*output.shape])

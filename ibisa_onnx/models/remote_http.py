"""The Open Inference Protocol v2 over HTTP.

tritonclient writes requests and reads responses; connections are the standard library's. Those of
tritonclient (geventhttpclient) cannot be shared by threads nor ended from another one, do not limit
the size of a response, and some versions repeat a request whose connection was lost, although it
may have run.

A connection is retried, a request never: it is sent once, on a connection that was alive just
before. Connections are reused, and no redirect is followed.
"""

from __future__ import annotations

import http.client
import json
import os
import select
import socket
import ssl
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from ibisa_onnx.errors import RemoteError
from ibisa_onnx.imports import import_extra
from ibisa_onnx.limits import Limits, variable
from ibisa_onnx.models.endpoint import Endpoint
from ibisa_onnx.models.remote_errors import Failure, Reporter, message_in
from ibisa_onnx.models.running import endable

_HEADER_LENGTH = "inference-header-content-length"
_ATTEMPTS, _PAUSE = 3, 0.2  # connections; seconds before the second, doubled for each further one
_CHUNK = 1 << 20
_MOST_OF_ERRORS = 1 << 16  # bytes
_FAILURES = {
    400: Failure.REJECTED,
    401: Failure.UNAUTHORISED,
    403: Failure.UNAUTHORISED,
    404: Failure.UNKNOWN,
    408: Failure.TIMEOUT,
    413: Failure.REJECTED,
    422: Failure.REJECTED,
    429: Failure.BUSY,
    503: Failure.UNAVAILABLE,
    504: Failure.TIMEOUT,
}


@dataclass(frozen=True)
class Waiting:
    """How long to wait, in seconds: for a connection, and for the response to a call."""

    connect: float
    call: float


class HttpServer:
    """A model on a server, by HTTP. Thread-safe.

    Parameters
    ----------
    endpoint
        The address.
    headers
        Headers of each request.
    reporter
        Writes the errors.
    waiting
        How long to wait.
    certificates
        File of the certificates to trust; None: the system's.
    limits
        `memory` limits a response; None: from the environment.
    """

    protocol = "HTTP"

    def __init__(
        self,
        endpoint: Endpoint,
        headers: Mapping[str, str],
        reporter: Reporter,
        waiting: Waiting,
        certificates: str | None,
        limits: Limits | None,
    ) -> None:
        self._endpoint, self._headers, self._reporter = endpoint, dict(headers), reporter
        self._waiting, self._limits = waiting, limits
        self._context = None
        if endpoint.is_encrypted:
            self._context = ssl.create_default_context(cafile=certificates)
        self._idle: list[http.client.HTTPConnection] = []
        self._process = os.getpid()
        self._codec: Any = import_extra("tritonclient.http", "remote")
        self.binary = False

    def facts(self) -> Mapping[str, Any]:
        """Return name, version and extensions of the server; empty if it does not tell."""
        try:
            return self._get("/v2")
        except RemoteError as error:
            if isinstance(error.__cause__, OSError):
                raise
            return {}

    def is_ready(self) -> bool:
        """Return whether the model is ready; True if the server does not tell."""
        status, _, _ = self._call("GET", f"{self._endpoint.model_path}/ready")
        return status in (200, 404, 405, 501)

    def model(self) -> Mapping[str, Any]:
        """Return the model's metadata."""
        return self._get(self._endpoint.model_path)

    def config(self) -> Mapping[str, Any]:
        """Return the model's configuration, an extension of Triton; empty if there is none."""
        with suppress(RemoteError):
            return self._get(f"{self._endpoint.model_path}/config")
        return {}

    def infer(
        self, feeds: Mapping[str, npt.NDArray[Any]], outputs: Sequence[str] | None
    ) -> dict[str, npt.NDArray[Any]]:
        """Run the model once; `outputs` None: all.

        Raises
        ------
        RemoteError
            The server cannot be reached, fails, takes too long, or breaks the protocol.
        DeadlineError
            A time limit ended the call.
        """
        codec = self._codec
        inputs = [
            codec.InferInput(name, list(value.shape), _datatype(value)).set_data_from_numpy(
                value, binary_data=self.binary
            )
            for name, value in feeds.items()
        ]
        wanted = [
            codec.InferRequestedOutput(each, binary_data=self.binary) for each in outputs or ()
        ]
        body, json_size = codec.InferenceServerClient.generate_request_body(inputs, wanted)
        headers = {"content-type": "application/json"}
        if json_size is not None:
            headers = {"content-type": "application/octet-stream", _HEADER_LENGTH: str(json_size)}
        path = f"{self._endpoint.model_path}/infer"
        status, given, data = self._call("POST", path, body, headers)
        self._check(status, given, data)
        return self._decoded(data, given.get(_HEADER_LENGTH))

    def _decoded(self, data: bytes, header: str | None) -> dict[str, npt.NDArray[Any]]:
        """Read the outputs of a response."""
        parse = self._codec.InferenceServerClient.parse_response_body
        try:
            result = parse(data, header_length=header)
            names = [str(each["name"]) for each in result.get_response()["outputs"]]
            found = {name: result.as_numpy(name) for name in names}
        except Exception as error:  # whatever malformed data raises
            raise self._reporter.unreadable(f"{type(error).__name__}: {error}") from error
        return found

    def _get(self, path: str) -> Mapping[str, Any]:
        """Return the JSON object at a path."""
        status, given, data = self._call("GET", path)
        self._check(status, given, data)
        try:
            found = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise self._reporter.unreadable(f"{path} is not JSON ({error})") from error
        if not isinstance(found, dict):
            raise self._reporter.unreadable(f"{path} is not a JSON object")
        return found

    def _check(self, status: int, headers: http.client.HTTPMessage, data: bytes) -> None:
        """Raise `RemoteError` for a status other than success."""
        if 300 <= status < 400:
            said = f"it redirects to {headers.get('location', 'nowhere')}; pass that address"
            raise self._reporter.failed(Failure.FAILED, status, said)
        if status != 200:
            failure = _FAILURES.get(status, Failure.FAILED)
            raise self._reporter.failed(failure, status, message_in(data))

    def _call(
        self, method: str, path: str, body: bytes | None = None, more: Mapping[str, str] = {}
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        """Make one call; return status, headers and body."""
        until = time.monotonic() + self._waiting.call
        ending = _Ending()
        with endable(self._endpoint.url, ending) as check:
            check()
            try:
                headers = {**self._headers, **more}
                try:
                    return self._exchange(method, path, body, headers, until, ending)
                except _UnsentError:
                    return self._exchange(method, path, body, headers, until, ending)
            except (RemoteError, OSError, http.client.HTTPException) as error:
                check()
                if isinstance(error, RemoteError):
                    raise
                raise self._reporter.lost(_reason(error)) from error

    def _exchange(
        self,
        method: str,
        path: str,
        body: bytes | None,
        headers: Mapping[str, str],
        until: float,
        ending: _Ending,
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        """Send a request and read its response, until a point in time."""
        connection = self._alive() or self._connected(ending)
        reusable = False
        try:
            ending.watch(connection.sock)
            connection.sock.settimeout(_left(until))
            response = self._response(connection, method, path, body, headers, until)
            data = self._read(response, connection, until)
            reusable = not response.will_close
            return response.status, response.headers, data
        except TimeoutError as error:
            raise self._reporter.late(self._waiting.call) from error
        finally:
            ending.watch(None)
            if reusable:
                self._idle.append(connection)
            else:
                connection.close()

    def _response(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        body: bytes | None,
        headers: Mapping[str, str],
        until: float,
    ) -> http.client.HTTPResponse:
        """Send a request; return its response, of which only the headers are read."""
        try:
            connection.request(method, self._endpoint.base + path, body, dict(headers))
        except ConnectionError as error:
            # The server may have replied, or closed the connection, before it read all.
            try:
                return connection.getresponse()
            except (OSError, http.client.HTTPException):
                raise _UnsentError(*error.args) from error
        connection.sock.settimeout(_left(until))
        return connection.getresponse()

    def _read(
        self,
        response: http.client.HTTPResponse,
        connection: http.client.HTTPConnection,
        until: float,
    ) -> bytes:
        """Read a response's body within the limits."""
        most = Limits.of(self._limits).memory if response.status == 200 else _MOST_OF_ERRORS
        promised, parts, size = response.length, list[bytes](), 0
        if response.status == 200 and promised is not None and promised > most:
            raise self._too_large(promised, most)
        while size <= most:
            if connection.sock is not None:  # None: the last bytes are buffered
                connection.sock.settimeout(_left(until))
            part = response.read1(_CHUNK)
            if not part:
                break
            parts.append(part)
            size += len(part)
        if size > most:
            if response.status == 200:
                raise self._too_large(size, most)
            response.will_close = True  # the rest of a long error is not read
            return b"".join(parts)[:most]
        if promised is not None and size < promised:
            raise self._reporter.unreadable(f"it ends after {size:,} of {promised:,} bytes")
        response.close()  # which it is not by itself after `read1`
        return b"".join(parts)

    def _too_large(self, size: int, most: int) -> RemoteError:
        return RemoteError(
            f"{self._endpoint.url}: the response has {size:,} bytes or more, above the limit of "
            f"{most:,}",
            f"set {variable('memory')} to allow more",
        )

    def _alive(self) -> http.client.HTTPConnection | None:
        """Return an idle connection that the server has not closed; None if there is none."""
        if self._process != os.getpid():  # a fork shares its parent's connections
            self._idle, self._process = [], os.getpid()
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                return None
            with suppress(OSError, ValueError):
                if not select.select([connection.sock], [], [], 0)[0]:
                    return connection
            connection.close()

    def _connected(self, ending: _Ending) -> http.client.HTTPConnection:
        """Return a new connection; a refused one is retried."""
        pause = _PAUSE
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                connection = self._new()
                connection.sock = self._socket(ending)
                return connection
            except OSError as error:
                final = attempt == _ATTEMPTS or not _is_passing(error)
                if final or ending.over.wait(pause):
                    if isinstance(error, TimeoutError):
                        error.strerror = f"no connection within {self._waiting.connect:g} s"
                    raise self._reporter.unreachable(_reason(error), attempt) from error
                pause *= 2
        raise AssertionError

    def _new(self) -> http.client.HTTPConnection:
        """Return a connection without a socket."""
        host, port = self._endpoint.host, self._endpoint.port
        if self._context is not None:
            return http.client.HTTPSConnection(host, port, context=self._context)
        return http.client.HTTPConnection(host, port)

    def _socket(self, ending: _Ending) -> socket.socket:
        """Return a connected socket, encrypted if need be; `ending` may end the attempt."""
        host = self._endpoint.host
        port = (
            self._endpoint.port
            or (http.client.HTTP_PORT, http.client.HTTPS_PORT)[self._context is not None]
        )
        failure = OSError(f"{host} has no address")
        for family, kind, protocol, _, address in socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM
        ):
            sock: Any = socket.socket(family, kind, protocol)
            try:
                sock.settimeout(self._waiting.connect)
                ending.watch(sock)
                sock.connect(address)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if self._context is None:
                    return cast("socket.socket", sock)
                sock = self._context.wrap_socket(
                    sock, server_hostname=host, do_handshake_on_connect=False
                )
                ending.watch(sock)
                sock.do_handshake()
                return cast("socket.socket", sock)
            except OSError as error:
                sock.close()
                failure = error
                if ending.over.is_set():
                    break
        raise failure


class _UnsentError(ConnectionError):
    """The connection was lost before the whole request was sent, so it has not run."""


class _Ending:
    """Ends a call from another thread: its pause between connections, or its socket."""

    def __init__(self) -> None:
        self.over = threading.Event()
        self._sock: socket.socket | None = None

    def watch(self, sock: socket.socket | None) -> None:
        """Set the socket to shut down; None once it must be left alone."""
        self._sock = sock
        if sock is not None and self.over.is_set():
            self()

    def __call__(self) -> None:
        self.over.set()
        sock = self._sock
        if sock is not None:
            with suppress(OSError):  # not a TLS socket's own, which another thread is reading
                socket.socket.shutdown(sock, socket.SHUT_RDWR)


def _left(until: float) -> float:
    """Return the seconds until a point in time; raise `TimeoutError` if it has passed."""
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _is_passing(error: OSError) -> bool:
    """Return whether a failed connection may succeed soon."""
    if isinstance(error, socket.gaierror):
        return error.errno == socket.EAI_AGAIN
    return isinstance(error, ConnectionError) and not isinstance(error, ssl.SSLError)


def _reason(error: BaseException) -> str:
    """Return an error's text, or its name."""
    return (
        (error.strerror if isinstance(error, OSError) else None)
        or str(error)
        or type(error).__name__
    )


def _datatype(value: npt.NDArray[Any]) -> str:
    """Return the protocol's name of an array's dtype."""
    from tritonclient.utils import np_to_triton_dtype  # type: ignore[import-not-found,unused-ignore]

    return str(np_to_triton_dtype(np.dtype(value.dtype)))

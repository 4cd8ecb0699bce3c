"""What stands before every HTTP request: limits on its body, the access log, and disconnection.

An ASGI middleware. A body is read here, within its limits, before anything parses it. While the
request is answered, the connection is watched; if the client is gone, the work is cancelled.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import orjson

from ibisa_onnx.serving.metrics import REJECTIONS
from ibisa_onnx.serving.request_log import log
from ibisa_onnx.serving.status import RETRY_AFTER

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Coroutine[Any, Any, None]]

received: ContextVar[float | None] = ContextVar("received", default=None)
"""When the current request was read, in seconds of `time.perf_counter`."""
_QUIET = ("/metrics", "/v2/health/")


@dataclass(frozen=True)
class BodyLimits:
    """Limits on the bodies of HTTP requests.

    Attributes
    ----------
    size
        Bytes of a body.
    seconds
        Time to send a body in.
    requests
        Requests with a body at a time, so that their bodies cannot exhaust the memory.
    """

    size: int
    seconds: float
    requests: int


class _RejectedError(Exception):
    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class HttpGuard:
    """Reads a request's body within limits, logs the request, and cancels it on disconnection."""

    def __init__(self, app: App, limits: BodyLimits) -> None:
        self._app, self._limits, self._active = app, limits, 0

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Handle one connection event of the ASGI server."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begin, response = time.perf_counter(), _Response(send)
        if scope["method"] == "POST":
            self._active += 1
            try:
                await self._post(scope, receive, response)
            finally:
                self._active -= 1
        else:
            await self._app(scope, receive, response)
        quiet = scope["path"].startswith(_QUIET)
        log(
            "request",
            level=logging.DEBUG if quiet else logging.INFO,
            protocol="http",
            method=scope["method"],
            path=scope["path"],
            status=response.code or 499,  # the client is gone
            seconds=round(time.perf_counter() - begin, 4),
        )

    async def _post(self, scope: Message, receive: Receive, response: _Response) -> None:
        try:
            body = await self._body(dict(scope["headers"]), receive)
        except _RejectedError as error:
            REJECTIONS.labels("", error.code).inc()
            await response.fail(error.code, str(error))
            return
        if body is None:
            return
        received.set(time.perf_counter())
        work = asyncio.create_task(self._app(scope, _Replay(body), response))
        gone = asyncio.ensure_future(receive())
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done() and not response.complete:
                work.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await work
        except Exception:
            if not response.complete:  # otherwise it has been reported to the client and logged
                raise
        finally:
            work.cancel()
            gone.cancel()

    async def _body(self, headers: dict[bytes, bytes], receive: Receive) -> bytes | None:
        """Read the body; None if the client disconnects."""
        limits = self._limits
        if self._active > limits.requests:
            raise _RejectedError(429, "too many requests at a time; retry later")
        if headers.get(b"content-encoding", b"identity") != b"identity":
            raise _RejectedError(415, "compressed bodies are not supported; send them as they are")
        too_large = _RejectedError(413, f"the body is larger than {limits.size:,} bytes")
        length = headers.get(b"content-length", b"")
        if length.isdigit() and (len(length) > 18 or int(length) > limits.size):
            raise too_large
        parts, size = [], 0
        try:
            async with asyncio.timeout(limits.seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > limits.size:
                        raise too_large
                    if not message.get("more_body"):
                        return b"".join(parts)
        except TimeoutError:
            late = f"the body did not arrive within {limits.seconds:g} seconds"
            raise _RejectedError(408, late) from None


class _Replay:
    """Gives an application a body that was read already, and then nothing."""

    def __init__(self, body: bytes) -> None:
        self._body: bytes | None = body

    async def __call__(self) -> Message:
        if self._body is None:
            await asyncio.Event().wait()
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}


class _Response:
    """Sends a response, and knows how far it is."""

    def __init__(self, send: Send) -> None:
        self._send, self.code, self.complete = send, 0, False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.code = message["status"]
        elif message["type"] == "http.response.body":
            self.complete = not message.get("more_body")
        await self._send(message)

    async def fail(self, code: int, message: str) -> None:
        """Send an error, and close the connection, since the body may not have been read."""
        body = orjson.dumps({"error": message})
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        if code == 429:
            headers.append((b"retry-after", str(RETRY_AFTER).encode()))
        await self({"type": "http.response.start", "status": code, "headers": headers})
        await self({"type": "http.response.body", "body": body})

"""Limits on bodies, and disconnection, as an ASGI server drives them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

pytest.importorskip("prometheus_client")
pytest.importorskip("orjson")

from ibisa_onnx.serving.http_guard import BodyLimits, HttpGuard

SCOPE: dict[str, Any] = {"type": "http", "method": "POST", "path": "/", "headers": []}
LIMITS = BodyLimits(size=10, seconds=5, requests=1)


class _Client:
    """The server's side of a connection: messages to receive, and what was sent."""

    def __init__(self, *messages: dict[str, Any]) -> None:
        self._messages, self.sent = list(messages), []
        self.gone = asyncio.Event()

    async def receive(self) -> dict[str, Any]:
        if self._messages:
            return self._messages.pop(0)
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        self.sent.append(message)

    @property
    def status(self) -> int:
        return self.sent[0]["status"]

    @property
    def error(self) -> str:
        return json.loads(self.sent[1]["body"])["error"]


def _part(body: bytes, *, more: bool = False) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


async def _echo(scope: Any, receive: Any, send: Any) -> None:
    body = (await receive())["body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


def _run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 60))


def test_the_application_gets_the_whole_body() -> None:
    async def test() -> None:
        client = _Client(_part(b"12345", more=True), _part(b"67890"))
        await HttpGuard(_echo, LIMITS)(SCOPE, client.receive, client.send)
        assert client.status == 200
        assert client.sent[1]["body"] == b"1234567890"

    _run(test)


def test_a_long_body_without_a_length_is_cut_off() -> None:
    async def test() -> None:
        client = _Client(*[_part(b"123456", more=True)] * 1000)
        await HttpGuard(_echo, LIMITS)(SCOPE, client.receive, client.send)
        assert client.status == 413
        assert "larger than 10 bytes" in client.error

    _run(test)


def test_a_slow_body_is_not_waited_for() -> None:
    async def test() -> None:
        client, limits = _Client(_part(b"1", more=True)), BodyLimits(10, 0.01, 1)
        await HttpGuard(_echo, limits)(SCOPE, client.receive, client.send)
        assert client.status == 408
        assert "did not arrive" in client.error

    _run(test)


def test_requests_beyond_the_limit_are_rejected_unread() -> None:
    async def test() -> None:
        guard, first, second = HttpGuard(_echo, LIMITS), _Client(), _Client(_part(b"1"))
        waiting = asyncio.create_task(guard(SCOPE, first.receive, first.send))
        await asyncio.sleep(0)
        await guard(SCOPE, second.receive, second.send)
        assert second.status == 429
        assert dict(second.sent[0]["headers"])[b"retry-after"] == b"1"
        first.gone.set()  # before its body is complete
        await waiting
        assert not first.sent
        third = _Client(_part(b"1"))
        await guard(SCOPE, third.receive, third.send)
        assert third.status == 200

    _run(test)


def test_disconnection_cancels_the_application() -> None:
    async def test() -> None:
        started, cancelled = asyncio.Event(), asyncio.Event()

        async def endless(scope: Any, receive: Any, send: Any) -> None:
            started.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.set()
                raise

        client = _Client(_part(b"1"))
        call = asyncio.create_task(HttpGuard(endless, LIMITS)(SCOPE, client.receive, client.send))
        await started.wait()
        client.gone.set()
        await call
        assert cancelled.is_set()
        assert not client.sent

    _run(test)

"""One-line errors of a model server, the same for both protocols.

What a server says is untrusted text: it is shortened, and the headers' values are removed from it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import Enum

from ibisa_onnx.errors import RemoteError
from ibisa_onnx.escaping import shortened
from ibisa_onnx.models.base import RequestRejectedError
from ibisa_onnx.models.endpoint import VARIABLE

_MOST = 300  # characters of a server's message
_LEAST_SECRET = 6  # characters: shorter values occur in any text


class Failure(Enum):
    """What a status code means, and what to do."""

    UNKNOWN = "there is no such model or version", "check the name and the version"
    UNAUTHORISED = "access denied", f"set {VARIABLE}, or pass headers="
    BUSY = "too many requests", "try again later, or pass a lower max_concurrency="
    UNAVAILABLE = "the model is not ready", "try again later"
    REJECTED = "the request was rejected", ""
    FAILED = "the server failed", ""
    LARGE = (
        "the response is too large for the server",
        "pass a lower max_batch=, raise the server's limit of a message, or use http://",
    )
    TIMEOUT = "the server gave up", "try again later"


class Reporter:
    """Writes the errors of one model.

    Parameters
    ----------
    url
        The model's URL, without credentials.
    headers
        Headers of each request, whose values no message may contain.
    """

    def __init__(self, url: str, headers: Mapping[str, str]) -> None:
        self.url = url
        self._secrets = [
            part for value in headers.values() for part in (value, value.rpartition(" ")[2])
        ]

    def failed(self, failure: Failure, code: object, said: str) -> RemoteError:
        """Return the error for a status code and the server's message."""
        what, advice = failure.value
        kind = RequestRejectedError if failure is Failure.REJECTED else RemoteError
        return kind(f"{self.url}: {what} ({code}){self.quoted(said)}", advice)

    def unreachable(self, why: str, attempts: int = 1) -> RemoteError:
        """Return the error for a connection that failed."""
        often = f" ({attempts} attempts)" if attempts > 1 else ""
        return RemoteError(
            f"{self.url}: cannot connect{often}{self.quoted(why)}",
            "check the address, and that the server is running",
        )

    def late(self, seconds: float) -> RemoteError:
        """Return the error for a call that took too long."""
        return RemoteError(
            f"{self.url}: no response within {seconds:g} s", "pass a longer timeout="
        )

    def lost(self, why: str) -> RemoteError:
        """Return the error for a connection lost after the request was sent."""
        return RemoteError(
            f"{self.url}: the connection was lost before the response{self.quoted(why)}; the "
            "request was not repeated, since it may have run"
        )

    def unreadable(self, why: object) -> RemoteError:
        """Return the error for a response that breaks the protocol."""
        return RemoteError(f"{self.url}: the response breaks the protocol{self.quoted(str(why))}")

    def quoted(self, said: str) -> str:
        """Return a server's message to append to an error; "" if it is empty."""
        for secret in self._secrets:
            if len(secret) >= _LEAST_SECRET:
                said = said.replace(secret, "***")
        text = shortened(" ".join(said.split()), _MOST)
        return f": {text}" if text else ""


def message_in(body: bytes) -> str:
    """Return the message in the body of an error response: the protocol's, FastAPI's, or text."""
    text = body.decode(errors="replace")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return text
    if isinstance(found, dict):
        for key in ("error", "detail", "message"):
            if found.get(key):
                return str(found[key])
    return text

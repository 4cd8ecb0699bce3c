"""Which errors are the caller's and which the server's, as HTTP and gRPC status codes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ibisa_onnx.errors import (
    DeadlineError,
    ImageError,
    OptionError,
    OverloadError,
    RemoteError,
    TargetError,
)


@dataclass(frozen=True)
class Status:
    """The status of a failed request.

    Attributes
    ----------
    http
        HTTP status code.
    grpc
        Name of the gRPC status code.
    """

    http: int
    grpc: str

    @property
    def by_caller(self) -> bool:
        """Whether the caller must change the request; otherwise the server is at fault or busy."""
        return self.http < 500 and self.http != 429


RETRY_AFTER = 1
"""Seconds after which a request may be repeated that met a full queue."""
INTERNAL = Status(500, "INTERNAL")
"""Any other error: the model, its settings or this package is at fault."""

STATUS: Mapping[type[BaseException], Status] = {
    ImageError: Status(400, "INVALID_ARGUMENT"),
    TargetError: Status(400, "INVALID_ARGUMENT"),
    OptionError: Status(400, "INVALID_ARGUMENT"),
    OverloadError: Status(429, "RESOURCE_EXHAUSTED"),
    DeadlineError: Status(504, "DEADLINE_EXCEEDED"),
    RemoteError: Status(502, "UNAVAILABLE"),
}
"""Status by class of error; subclasses share their base's."""


def status_of(error: BaseException) -> Status:
    """Return the status of an error, `INTERNAL` if it is not in `STATUS`."""
    return next((STATUS[each] for each in type(error).__mro__ if each in STATUS), INTERNAL)

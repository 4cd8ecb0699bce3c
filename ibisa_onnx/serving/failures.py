"""Errors of the model server as the protocol's: one line, and an HTTP and a gRPC status."""

from __future__ import annotations

import logging

from kserve.errors import (
    InferenceError,
    InvalidInput,
    ModelNotFound,
    ModelNotReady,
    ServerNotLive,
    ServerNotReady,
)

from ibisa_onnx.errors import IbisaError
from ibisa_onnx.escaping import escaped, shortened
from ibisa_onnx.serving.metrics import REJECTIONS
from ibisa_onnx.serving.request_log import log
from ibisa_onnx.serving.status import INTERNAL, Status, status_of
from ibisa_onnx.serving.target_text import with_keys

_LONGEST = 1000  # characters
_INVALID = Status(400, "INVALID_ARGUMENT")
_STATUS = {
    InvalidInput: _INVALID,
    InferenceError: _INVALID,
    ModelNotFound: Status(404, "NOT_FOUND"),
    ModelNotReady: Status(503, "UNAVAILABLE"),
    ServerNotLive: Status(503, "UNAVAILABLE"),
    ServerNotReady: Status(503, "UNAVAILABLE"),
    NotImplementedError: Status(501, "UNIMPLEMENTED"),
}


def failure(error: Exception, model: str = "") -> tuple[Status, str]:
    """Return an error's status and message; count and log it.

    Parameters
    ----------
    error
        Any exception of a request.
    model
        The model, if it exists.
    """
    status = next((_STATUS[each] for each in type(error).__mro__ if each in _STATUS), None)
    expected = status is not None or isinstance(error, IbisaError)
    status = status or status_of(error)
    if expected:
        line = " ".join(str(error).split())
        message = shortened(escaped(with_keys(line)), _LONGEST)
    elif isinstance(error, MemoryError):
        message = "not enough memory for this request"
    else:
        message = f"unexpected {type(error).__name__}; the server's log has the details"
    level = logging.ERROR if status == INTERNAL else logging.INFO
    fields = {"model": model or None, "status": status.http, "reason": message}
    log("rejected", level=level, error=not expected, **fields)
    REJECTIONS.labels(model, status.http).inc()
    return status, message

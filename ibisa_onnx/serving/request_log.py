"""Logs of the model server: one line a request, as text or as JSON, on stderr."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

from ibisa_onnx.escaping import escaped, shortened

_LONGEST = 1000  # characters of a field
_FIELDS = "ibisa_fields"
_log = logging.getLogger("ibisa_onnx.serving")


def log(message: str, *, level: int = logging.INFO, error: bool = False, **fields: Any) -> None:
    """Write one line: a message and its fields; those that are None are left out.

    `error` adds the traceback of the current exception.
    """
    known = {name: value for name, value in fields.items() if value is not None}
    _log.log(level, "%s", message, extra={_FIELDS: known}, exc_info=error)


def configure(*, as_json: bool, verbose: bool) -> None:
    """Send the logs of the server and of the libraries below it to stderr, a line a record."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if as_json else _Text())
    for name, level in (
        ("ibisa_onnx", logging.INFO),
        ("kserve", logging.INFO if verbose else logging.CRITICAL),  # ours has a line a request
        ("uvicorn", logging.INFO if verbose else logging.ERROR),
    ):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)
    # Every explanation is a line of the server's own.
    logging.getLogger("ibisa_onnx.pipeline").setLevel(logging.INFO if verbose else logging.WARNING)
    logging.getLogger("uvicorn.access").disabled = True


class _Line(logging.Formatter):
    """One line a record, with escaped text."""

    def fields(self, record: logging.LogRecord) -> dict[str, Any]:
        found: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": _clean(record.getMessage()),
        }
        if not record.name.startswith("ibisa_onnx"):
            found["logger"] = record.name
        found |= {name: _clean(value) for name, value in getattr(record, _FIELDS, {}).items()}
        if record.exc_info:
            found["traceback"] = escaped(self.formatException(record.exc_info))
        return found


class _Json(_Line):
    def format(self, record: logging.LogRecord) -> str:
        return json.dumps(self.fields(record), ensure_ascii=False)


class _Text(_Line):
    def format(self, record: logging.LogRecord) -> str:
        found = self.fields(record)
        head = f"{found.pop('time')} {found.pop('level'):7} {found.pop('message')}"
        return " ".join((head, *(f"{name}={_quoted(value)}" for name, value in found.items())))


def _quoted(value: Any) -> str:
    """Return a field's value, in quotes if it could be taken for several."""
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if " " in text or '"' in text else text


def _clean(value: Any) -> Any:
    return shortened(escaped(value), _LONGEST) if isinstance(value, str) else value

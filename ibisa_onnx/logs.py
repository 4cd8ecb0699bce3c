"""Loggers of this package: silent unless the application enables them; arguments are escaped."""

from __future__ import annotations

import logging

from ibisa_onnx.escaping import escaped, shortened

_LONGEST = 1000  # characters of a logged argument

logging.getLogger("ibisa_onnx").addHandler(logging.NullHandler())


def logger(name: str) -> logging.Logger:
    """Return a module's logger, which escapes and shortens its text arguments.

    Parameters
    ----------
    name
        The module's `__name__`.
    """
    found = logging.getLogger(name)
    if _escape_arguments not in found.filters:
        found.addFilter(_escape_arguments)
    return found


def _escape_arguments(record: logging.LogRecord) -> bool:
    if isinstance(record.args, tuple):
        record.args = tuple(
            shortened(escaped(each), _LONGEST) if isinstance(each, str) else each
            for each in record.args
        )
    return True

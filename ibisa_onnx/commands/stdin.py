"""Input from stdin, read once and completely."""

from __future__ import annotations

import sys

from ibisa_onnx.errors import IbisaError, ImageError
from ibisa_onnx.limits import Limits, variable


def piped_picture() -> bytes:
    """Return the image on stdin; `ImageError` if it exceeds the file size limit."""
    return piped("the image", ImageError)


def piped(what: str, error: type[IbisaError]) -> bytes:
    """Return the bytes on stdin.

    Raises
    ------
    IbisaError
        Of class `error`: they exceed the file size limit.
    """
    most = Limits.from_environment().file_bytes
    data = sys.stdin.buffer.read(most + 1)
    if len(data) > most:
        raise error(
            f"{what} on stdin exceeds {most:,} bytes; raise the limit with {variable('file_bytes')}"
        )
    return data


def piped_model() -> bytes:
    """Return the model on stdin, limited only by memory."""
    return sys.stdin.buffer.read()

"""What comes in on stdin, read once and whole."""

from __future__ import annotations

import sys

from ibisa_onnx.errors import IbisaError, ImageError
from ibisa_onnx.limits import Limits, variable


def piped_picture() -> bytes:
    """Return the picture on stdin; `ImageError` where it has more bytes than a file may have."""
    return piped("the picture", ImageError)


def piped(what: str, error: type[IbisaError]) -> bytes:
    """Return what is on stdin.

    Raises
    ------
    IbisaError
        Of the class `error`: it has more bytes than a file may have.
    """
    most = Limits.from_environment().file_bytes
    data = sys.stdin.buffer.read(most + 1)
    if len(data) > most:
        raise error(
            f"{what} on stdin has more than {most:,} bytes; set {variable('file_bytes')} to allow "
            "more"
        )
    return data


def piped_model() -> bytes:
    """Return the model on stdin, which memory alone bounds."""
    return sys.stdin.buffer.read()

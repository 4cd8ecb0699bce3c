"""`--deadline-ms`: a command that ends in time, whatever the model does.

What counts as late, and how a call is ended, is in `models/running.py`; here is what only a process
of its own can do: where ONNX Runtime does not leave off, it ends.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click

from ibisa_onnx.commands.flags import with_flags
from ibisa_onnx.commands.model_options import FiniteRange
from ibisa_onnx.ending import end_at_once


def deadline_of_maps(function: Callable[..., None]) -> Callable[..., None]:
    """Give a verb that explains `deadline`, in seconds or None: its maps are the best by then."""
    option = _option("End all maps of a picture by then, with the best so far.")

    @functools.wraps(function)
    def wrapped(*args: Any, deadline_ms: float | None, **options: Any) -> None:
        from ibisa_onnx.models.running import last_resort

        with last_resort(_end):
            function(*args, deadline=_seconds(deadline_ms), **options)

    return option(wrapped)


def deadline_of_all(function: Callable[..., None]) -> Callable[..., None]:
    """Give a verb a deadline by which it fails if the model is still at work."""
    option = _option("Give up where the model is still at work by then.")

    @functools.wraps(function)
    def wrapped(*args: Any, deadline_ms: float | None, **options: Any) -> None:
        from ibisa_onnx.models.running import last_resort, time_limit

        with last_resort(_end), time_limit(_seconds(deadline_ms)):
            function(*args, **options)

    return option(wrapped)


def _option(text: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    kind = FiniteRange(0, min_open=True)
    return click.option("--deadline-ms", type=kind, metavar="MS", help=text)


def _seconds(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000


def _end(message: str) -> None:
    end_at_once(1, with_flags(message))

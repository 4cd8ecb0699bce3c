"""`--deadline-ms`: end a command in time, whatever the model does.

`models/running.py` defines deadlines and how a call is ended. A process of its own can go further:
it exits if ONNX Runtime does not stop.
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
    """Add `--deadline-ms` to a verb that returns its best maps by then; `deadline` in seconds."""
    option = _option("Stop after MS milliseconds per image and return the best maps so far.")

    @functools.wraps(function)
    def wrapped(*args: Any, deadline_ms: float | None, **options: Any) -> None:
        from ibisa_onnx.models.running import last_resort

        with last_resort(_end):
            function(*args, deadline=_seconds(deadline_ms), **options)

    return option(wrapped)


def deadline_of_all(function: Callable[..., None]) -> Callable[..., None]:
    """Add `--deadline-ms` to a verb that fails if the model is still running by then."""
    option = _option("Fail if the model is still running after MS milliseconds.")

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

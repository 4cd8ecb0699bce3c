"""Ctrl-C: the first asks for the best result so far, the second ends everything."""

from __future__ import annotations

import contextlib
import signal
import sys
from types import FrameType
from typing import Any

from ibisa_onnx.commands.console import Console, echo


class Interruption:
    """A context in which the first Ctrl-C is only a wish, to be asked for by calling this.

    Where Ctrl-C is ignored (a job in the background), and outside the main thread, where signals
    are not ours, it changes nothing.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._previous: Any = None
        self.wished = False

    def __call__(self) -> bool:
        """Tell whether an end is wished for."""
        return self.wished

    def __enter__(self) -> Interruption:
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
            return self
        with contextlib.suppress(ValueError):  # not the main thread
            self._previous = signal.signal(signal.SIGINT, self._wish)
        return self

    def __exit__(self, *_: object) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)

    def _wish(self, _: int, __: FrameType | None) -> None:
        if self.wished:
            raise KeyboardInterrupt
        self.wished = True
        if sys.stderr.isatty() and not self._console.quiet:
            echo("", err=True)  # off the line on which the bar is, and what the terminal echoed
        self._console.warn(["ending with the best map so far; Ctrl-C again ends without"])

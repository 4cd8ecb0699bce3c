"""Ctrl-C while pictures are explained: the first asks for the best map so far, the second ends all.

Python answers to a signal only between two of its own steps, and a call of ONNX Runtime may last,
for ever if the model is endless. So a thread counts each Ctrl-C as it comes, and ends the process
where a second finds no answer. Before and after, Ctrl-C is the process's own affair (`__main__`).
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from types import FrameType
from typing import Any

from ibisa_onnx.commands.console import INTERRUPTED, Console, echo
from ibisa_onnx.ending import end_at_once

_PATIENCE = 0.5  # seconds in which the main thread can end everything itself


class Interruption:
    """A context in which the first Ctrl-C is only a wish, to be asked for by calling this.

    Where Ctrl-C is ignored (a job in the background), and outside the main thread, where signals
    are not ours, it changes nothing.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._previous: Any = None
        self._watch: _Watch | None = None
        self.wished = False

    def __call__(self) -> bool:
        """Tell whether an end is wished for."""
        return self.wished

    def __enter__(self) -> Interruption:
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
            return self
        with contextlib.suppress(ValueError):  # not the main thread
            self._previous = signal.signal(signal.SIGINT, self._wish)
            self._watch = _Watch() if os.name != "nt" else None
        return self

    def __exit__(self, *_: object) -> None:
        if self._watch is not None:
            self._watch.leave()
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)

    def _wish(self, _: int, __: FrameType | None) -> None:
        if self.wished:
            raise KeyboardInterrupt
        self.wished = True
        if sys.stderr.isatty() and not self._console.quiet:
            echo("", err=True)  # off the line on which the bar is, and what the terminal echoed
        self._console.warn(["ending with the best map so far; Ctrl-C again ends without"])


class _Watch:
    """A thread that sees signals while the main thread is in a native call."""

    def __init__(self) -> None:
        reading, self._writing = os.pipe()
        os.set_blocking(self._writing, False)
        self._before = signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        self._left = threading.Event()
        threading.Thread(target=self._count, args=(reading,), daemon=True).start()

    def leave(self) -> None:
        """Let whoever saw them before see them again."""
        self._left.set()
        signal.set_wakeup_fd(self._before, warn_on_full_buffer=False)
        os.close(self._writing)

    def _count(self, reading: int) -> None:
        """Count each Ctrl-C, and pass other signals on."""
        count = 0
        while number := os.read(reading, 1):
            count += number[0] == signal.SIGINT
            if count > 1 and not self._left.wait(_PATIENCE):
                end_at_once(INTERRUPTED, "interrupted")
            if number[0] != signal.SIGINT and self._before != -1:
                os.write(self._before, number)
        os.close(reading)

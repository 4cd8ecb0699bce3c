"""Ctrl-C while images are explained: the first requests the best map so far, the second exits.

Python handles a signal only between its own instructions, and a call of ONNX Runtime can take long,
or forever if the model contains an endless loop. So a thread counts each Ctrl-C on arrival and ends
the process if the main thread does not react to the second. `__main__` handles Ctrl-C before and
after.
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

_PATIENCE = 0.5  # seconds for the main thread to end the process itself


class Interruption:
    """A context manager that records the first Ctrl-C; calling it returns whether there was one.

    It changes nothing if Ctrl-C is ignored, as in a background job, or outside the main thread,
    where Python does not allow signal handlers.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._previous: Any = None
        self._watch: _Watch | None = None
        self.requested = False

    def __call__(self) -> bool:
        """Return whether Ctrl-C was pressed."""
        return self.requested

    def __enter__(self) -> Interruption:
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
            return self
        with contextlib.suppress(ValueError):  # not the main thread
            self._previous = signal.signal(signal.SIGINT, self._request)
            self._watch = _Watch() if os.name != "nt" else None
        return self

    def __exit__(self, *_: object) -> None:
        if self._watch is not None:
            self._watch.leave()
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)

    def _request(self, _: int, __: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        if sys.stderr.isatty() and not self._console.quiet:
            echo("", err=True)  # start a new line after the progress bar and the echoed ^C
        self._console.warn(
            ["stopping with the best map so far; press Ctrl-C again to quit without one"]
        )


class _Watch:
    """A thread that sees signals while the main thread is in a native call."""

    def __init__(self) -> None:
        reading, self._writing = os.pipe()
        os.set_blocking(self._writing, False)
        self._before = signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        self._left = threading.Event()
        threading.Thread(target=self._count, args=(reading,), daemon=True).start()

    def leave(self) -> None:
        """Restore the previous wake-up descriptor."""
        self._left.set()
        signal.set_wakeup_fd(self._before, warn_on_full_buffer=False)
        os.close(self._writing)

    def _count(self, reading: int) -> None:
        """Count each Ctrl-C and forward other signals."""
        count = 0
        while number := os.read(reading, 1):
            count += number[0] == signal.SIGINT
            if count > 1 and not self._left.wait(_PATIENCE):
                end_at_once(INTERRUPTED, "interrupted")
            if number[0] != signal.SIGINT and self._before != -1:
                os.write(self._before, number)
        os.close(reading)

"""Ctrl-C: the first asks for the best result so far, the second ends everything."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any

from ibisa_onnx.commands.console import Console


class Interruption:
    """A context in which the first Ctrl-C is only a wish, to be asked for by calling this.

    Outside the main thread, where signals are not ours, it changes nothing.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._previous: Any = None
        self.wished = False

    def __call__(self) -> bool:
        """Tell whether an end is wished for."""
        return self.wished

    def __enter__(self) -> Interruption:
        try:
            self._previous = signal.signal(signal.SIGINT, self._wish)
        except ValueError:  # not the main thread
            self._previous = None
        return self

    def __exit__(self, *_: object) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)

    def _wish(self, _: int, __: FrameType | None) -> None:
        if self.wished:
            raise KeyboardInterrupt
        self.wished = True
        self._console.warn(["ending with the best map so far; Ctrl-C again ends without"])

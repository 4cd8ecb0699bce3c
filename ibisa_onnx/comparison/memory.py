"""How much memory something took at its highest."""

from __future__ import annotations

import importlib
import threading
from typing import Any

from ibisa_onnx.errors import MissingDependencyError

_EVERY = 0.005  # seconds


class PeakMemory:
    """The most memory that this process had in use while the context was open.

    That is its resident set, the model and all libraries included, looked at 200 times a second.
    """

    def __init__(self) -> None:
        try:
            self._process: Any = importlib.import_module("psutil").Process()
        except ImportError as error:
            raise MissingDependencyError(
                f"psutil cannot be imported ({error}); pip install 'ibisa-onnx[bench]'"
            ) from error
        self.bytes = 0

    def __enter__(self) -> PeakMemory:
        self.bytes, self._ended = 0, threading.Event()
        self._look()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._look()

    def _watch(self) -> None:
        while not self._ended.wait(_EVERY):
            self._look()

    def _look(self) -> None:
        self.bytes = max(self.bytes, int(self._process.memory_info().rss))

"""Peak memory of a piece of work."""

from __future__ import annotations

import threading

from ibisa_onnx.benchmark.extra import import_extra

_EVERY = 0.005  # seconds


class PeakMemory:
    """Context that measures the process's peak memory while it is open.

    This is the resident set size, including the model and all libraries, sampled 200 times a
    second. Memory that earlier work has not returned to the system is included.

    Raises
    ------
    MissingDependencyError
        psutil is not installed.
    """

    def __init__(self) -> None:
        self._process = import_extra("psutil").Process()
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

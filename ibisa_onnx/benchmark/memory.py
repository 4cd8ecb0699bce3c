"""How much memory something took at its highest."""

from __future__ import annotations

import threading

from ibisa_onnx.benchmark.extra import import_extra

_EVERY = 0.005  # seconds


class PeakMemory:
    """The most memory that this process had in use while the context was open.

    That is its resident set, the model and all libraries included, looked at 200 times a second.
    What earlier work has left and the system was not given back is in it.

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

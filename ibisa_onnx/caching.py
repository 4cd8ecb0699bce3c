"""Objects that are built once for each key, whichever thread asks first; the last few are kept."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class BuiltOnce(Generic[T]):
    """A cache of objects that take long to build.

    While one is built, whoever asks for it waits, and who asks for another does not.

    Parameters
    ----------
    most
        How many are kept: those that were asked for last.
    """

    def __init__(self, most: int = 32) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._kept: OrderedDict[Hashable, T] = OrderedDict()
        self._building: dict[Hashable, threading.Lock] = {}

    def get(self, key: Hashable, build: Callable[[], T]) -> T:
        """Return what belongs to a key, built if it is not there; errors of `build` go through."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
            building = self._building.setdefault(key, threading.Lock())
        with building:
            with self._lock:
                if key in self._kept:
                    return self._kept[key]
            built = build()
            with self._lock:
                self._kept[key] = built
                self._building.pop(key, None)
                while len(self._kept) > self._most:
                    self._kept.popitem(last=False)
        return built

    def values(self) -> list[T]:
        """Return all that are kept."""
        with self._lock:
            return list(self._kept.values())

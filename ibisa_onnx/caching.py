"""A thread-safe cache of objects that are built once per key."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from ibisa_onnx.models.forking import at_work

T = TypeVar("T")


class BuiltOnce(Generic[T]):
    """A cache of the most recently used objects that are slow to build.

    While an object is built, threads that request the same key wait; other keys are not blocked.

    Parameters
    ----------
    most
        Maximum number of cached objects.
    """

    def __init__(self, most: int = 32) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._kept: OrderedDict[Hashable, T] = OrderedDict()
        self._building: dict[Hashable, threading.Lock] = {}

    def get(self, key: Hashable, build: Callable[[], T]) -> T:
        """Return the object for a key, building it on first use; errors of `build` propagate."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
            building = self._building.setdefault(key, threading.Lock())
        with building:
            with self._lock:
                if key in self._kept:
                    return self._kept[key]
            with at_work():
                built = build()
            with self._lock:
                self._kept[key] = built
                self._building.pop(key, None)
                while len(self._kept) > self._most:
                    self._kept.popitem(last=False)
        return built

    def values(self) -> list[T]:
        """Return all cached objects."""
        with self._lock:
            return list(self._kept.values())

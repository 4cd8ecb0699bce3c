"""How long the rest of some work takes, by how long such work has taken so far."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager


class Forecast:
    """The time left for pieces of work of several kinds.

    Parameters
    ----------
    due
        How many pieces of each kind there are to do.
    clock
        Gives seconds.
    """

    def __init__(
        self, due: Mapping[str, int], clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._due, self._clock = Counter(due), clock
        self._took: defaultdict[str, list[float]] = defaultdict(list)
        self._running: tuple[str, float] | None = None

    @contextmanager
    def working(self, kind: str) -> Iterator[None]:
        """Time one piece of a kind; one that fails is done as well, but tells no time."""
        begin = self._clock()
        self._running = kind, begin
        try:
            yield
            self._took[kind].append(self._clock() - begin)
        finally:
            self._running = None
            self.drop(kind)

    def drop(self, kind: str) -> None:
        """Count on one piece less."""
        self._due[kind] -= 1

    def seconds_left(self) -> float | None:
        """Return about how many seconds are left; None until each kind has been seen at work."""
        due = +self._due  # those above zero
        if any(kind not in self._took for kind in due):
            return None
        left = sum(count * self._mean(kind) for kind, count in due.items())
        if self._running is not None:
            kind, begin = self._running
            left -= min(self._clock() - begin, self._mean(kind))
        return left

    def _mean(self, kind: str) -> float:
        return sum(self._took[kind]) / len(self._took[kind])

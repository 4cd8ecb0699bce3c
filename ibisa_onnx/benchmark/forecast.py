"""Estimate of the remaining time of a run from the durations so far."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager


class Forecast:
    """Remaining time for tasks of several kinds.

    Parameters
    ----------
    due
        Number of tasks of each kind.
    clock
        Returns the current time in seconds.
    """

    def __init__(
        self, due: Mapping[str, int], clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._due, self._clock = Counter(due), clock
        self._took: defaultdict[str, list[float]] = defaultdict(list)
        self._running: tuple[str, float] | None = None

    @contextmanager
    def working(self, kind: str) -> Iterator[None]:
        """Time one task; a task that fails counts as done but is not timed."""
        begin = self._clock()
        self._running = kind, begin
        try:
            yield
            self._took[kind].append(self._clock() - begin)
        finally:
            self._running = None
            self.drop(kind)

    def drop(self, kind: str) -> None:
        """Remove one task of a kind."""
        self._due[kind] -= 1

    def seconds_left(self) -> float | None:
        """Return the estimated seconds left; None until one task of each kind is done."""
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

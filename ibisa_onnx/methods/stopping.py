"""What a run is told from outside: until when it may go on, and who wants to hear of its progress.

Work is done in pieces (a step, a batch of queries), and asked between two of them whether there is
time for another. What is unfinished then is left out, and the explanation says so.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from ibisa_onnx.errors import OptionError
from ibisa_onnx.models.running import TimeLimit, deadline_limit

DEADLINE, STOPPED = "deadline", "stop"

Progress = Callable[[int, int], None]
"""Told how many steps (without a gradient: queries) are done, and how many there will be."""


@dataclass
class StoppingRule:
    """Until when a run may go on.

    Attributes
    ----------
    deadline
        By `time.perf_counter`, in seconds.
    stop
        Asked between two pieces of work: True ends it.
    reason
        What ended it, `DEADLINE` or `STOPPED`; None so far.
    """

    deadline: float = math.inf
    stop: Callable[[], bool] = lambda: False
    reason: str | None = None

    def over(self, ahead: float) -> bool:
        """Tell whether to end now, where what is still to be done would take `ahead` seconds."""
        if self.stop():
            self.reason = STOPPED
        elif time.perf_counter() + ahead > self.deadline:
            self.reason = DEADLINE
        return self.reason is not None


@dataclass
class Control:
    """How a run is watched and ended.

    Attributes
    ----------
    stopping
        Until when it may go on.
    progress
        Hears of each step.
    intermediate
        Whether the maps on the way are shown.
    timings
        Seconds of each stage that is over.
    limit
        What ends a call of the model that does not come back.
    """

    stopping: StoppingRule = field(default_factory=StoppingRule)
    progress: Progress = lambda done, planned: None
    intermediate: bool = False
    timings: dict[str, float] = field(default_factory=dict)
    limit: TimeLimit = field(default_factory=lambda: deadline_limit(None))

    def __post_init__(self) -> None:
        self.begin = self._lap = time.perf_counter()

    @classmethod
    def from_now(
        cls,
        progress: Progress | None = None,
        deadline: float | None = None,
        stop: Callable[[], bool] | None = None,
        *,
        intermediate: bool = False,
    ) -> Control:
        """Return the control of a run that begins now; `deadline` is in seconds, counted from now.

        Raises
        ------
        OptionError
            One of them is not what it should be.
        """
        limit = deadline_limit(deadline)
        for name, value in (("progress", progress), ("stop", stop)):
            if value is not None and not callable(value):
                raise OptionError(f"{name} is {value!r}; give a function")
        control = cls(StoppingRule(), intermediate=intermediate, limit=limit)
        control.stopping.deadline = control.begin + limit.seconds
        if stop is not None:
            control.stopping.stop = stop
        if progress is not None:
            control.progress = progress
        return control

    @property
    def anytime(self) -> bool:
        """Whether maps on the way may be the last, or are shown."""
        return self.intermediate or math.isfinite(self.stopping.deadline)

    def lap(self, stage: str) -> None:
        """Note that a stage is over."""
        now = time.perf_counter()
        self.timings[stage] = self.timings.get(stage, 0.0) + now - self._lap
        self._lap = now

    def finish(self) -> dict[str, float]:
        """Return the seconds of all stages, and those in all."""
        return {**self.timings, "total": time.perf_counter() - self.begin}

    def share(self, rows: int, first: bool) -> Control:
        """Return the control of the next of `rows` rows in turn: it has its share of the time left.

        The first takes over the stages that are over.
        """
        now = time.perf_counter()
        deadline = now + (self.stopping.deadline - now) / rows
        own = Control(StoppingRule(deadline, self.stopping.stop), self.progress, self.intermediate)
        if first:
            own.timings, own.begin = dict(self.timings), self.begin
        return own

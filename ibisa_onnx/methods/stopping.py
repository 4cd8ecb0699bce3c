"""Control of a run from outside: deadlines, stopping and progress.

Work is done in units (a step, a batch of queries); between two of them the run checks whether there
is time for another. An explanation that ends early says so.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from ibisa_onnx.errors import DeadlineError, OptionError
from ibisa_onnx.models.running import TimeLimit, deadline_limit

DEADLINE, STOPPED = "deadline", "stop"

Progress = Callable[[int, int], None]
"""Called with the number of steps (without a gradient: queries) done and planned."""


@dataclass
class StoppingRule:
    """When a run must end.

    Attributes
    ----------
    deadline
        In seconds of `time.perf_counter`.
    stop
        Called between units of work; returning True ends the run.
    reason
        Why the run ended, `DEADLINE` or `STOPPED`; None if it has not.
    reserved
        Seconds before the deadline for what follows the run.
    """

    deadline: float = math.inf
    stop: Callable[[], bool] = lambda: False
    reason: str | None = None
    reserved: float = 0.0

    @property
    def left(self) -> float:
        """Seconds that the run has left."""
        return self.deadline - self.reserved - time.perf_counter()

    def over(self, ahead: float) -> bool:
        """Return whether to end now, given that the next unit takes `ahead` seconds."""
        if self.stop():
            self.reason = STOPPED
        elif ahead > self.left:
            self.reason = DEADLINE
        return self.reason is not None


@dataclass
class Control:
    """How a run is monitored and ended.

    Attributes
    ----------
    stopping
        When the run must end.
    progress
        Called after each step.
    intermediate
        Whether intermediate maps are used.
    timings
        Seconds of each finished stage.
    limit
        Time limit that ends a model call that does not return.
    pace
        Seconds of the slowest step so far, or the expected seconds of the first.
    """

    stopping: StoppingRule = field(default_factory=StoppingRule)
    progress: Progress = lambda done, planned: None
    intermediate: bool = False
    timings: dict[str, float] = field(default_factory=dict)
    limit: TimeLimit = field(default_factory=lambda: deadline_limit(None))
    pace: float = 0.0

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
        """Return the control of a run that starts now.

        Parameters
        ----------
        progress
            Called after each step, with the numbers done and planned; None for nothing.
        deadline
            Seconds from now; None for no limit.
        stop
            Called between units of work; returning True ends the run. None for never.
        intermediate
            Whether intermediate maps are used.

        Raises
        ------
        OptionError
            An argument is invalid.
        """
        limit = deadline_limit(deadline)
        for name, value in (("progress", progress), ("stop", stop)):
            if value is not None and not callable(value):
                raise OptionError(f"{name} is {value!r}; pass a function")
        control = cls(StoppingRule(), intermediate=intermediate, limit=limit)
        control.stopping.deadline = control.begin + limit.seconds
        if stop is not None:
            control.stopping.stop = stop
        if progress is not None:
            control.progress = progress
        return control

    @property
    def anytime(self) -> bool:
        """Whether an intermediate map may be the last, or is used."""
        return self.intermediate or math.isfinite(self.stopping.deadline)

    @property
    def stopped(self) -> bool:
        """Whether the caller has ended the run, so that no check follows."""
        return self.stopping.reason == STOPPED or self.stopping.stop()

    def end_within(self, seconds: float) -> None:
        """Bring the deadline forward to `seconds` after the begin; infinity changes nothing."""
        self.stopping.deadline = min(self.stopping.deadline, self.begin + seconds)

    def require(self, ahead: float = 0.0) -> None:
        """Raise `DeadlineError` if there are no `ahead` seconds left for a first step."""
        if ahead > self.stopping.left:
            spent = time.perf_counter() - self.begin
            whole = self.stopping.deadline - self.begin
            raise DeadlineError(
                f"no time for a first step: reading, predicting and preparing took {spent:.2g} s "
                f"of the deadline of {whole:.2g} s",
                "pass a longer deadline=",
            )

    def lap(self, stage: str) -> None:
        """Record that a stage is finished."""
        now = time.perf_counter()
        self.timings[stage] = self.timings.get(stage, 0.0) + now - self._lap
        self._lap = now

    def finish(self) -> dict[str, float]:
        """Return the seconds of all stages, and the total."""
        return {**self.timings, "total": time.perf_counter() - self.begin}

    def share(self, rows: int, first: bool) -> Control:
        """Return the control of the next of `rows` rows, with its part of the time left.

        The first row takes over the finished stages.
        """
        deadline = time.perf_counter() + self.stopping.left / rows
        own = Control(StoppingRule(deadline, self.stopping.stop), self.progress, self.intermediate)
        if first:
            own.timings, own.begin = dict(self.timings), self.begin
        return own

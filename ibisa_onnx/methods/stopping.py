"""Until when an explanation may go on: a deadline, and whoever wants it to stop.

Work is done in pieces (a step, a batch of queries), and asked between two of them whether there is
time for another. What is unfinished then is left out, and the explanation says so.
"""

from __future__ import annotations

import math
import numbers
import time
from collections.abc import Callable
from dataclasses import dataclass

from ibisa_onnx.errors import OptionError

DEADLINE, STOPPED = "deadline", "stop"


@dataclass
class Limit:
    """Until when one explanation may go on.

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


def check_deadline(seconds: float | None) -> float:
    """Return a number of seconds that was given, infinity for None.

    Raises
    ------
    OptionError
        It is not a number above 0.
    """
    if seconds is None:
        return math.inf
    if not isinstance(seconds, numbers.Real) or not seconds > 0:
        raise OptionError(f"deadline is {seconds!r}; give seconds, more than 0")
    return float(seconds)

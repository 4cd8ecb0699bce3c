"""The one place where ONNX Runtime's sessions are created and run, so that each call can be ended.

A model may be endless: a Loop of 2^40 turns is a few hundred bytes. Python can do nothing about a
thread that is inside such a call. But ONNX Runtime looks at a flag between two nodes of a graph, in
each turn of a loop too, and while it opens a session. So a call is noted with the time limits that
are in force around it, and a thread that waits for the time to be up sets the flag. The call then
raises a `DeadlineError`, and so does each that comes after it under the same limit: no fallback
begins anew.

Limits are carried by a context variable: one caller's do not touch another's calls, and threads
that work for a caller get a copy (`base.py: map_concurrently`). Without a limit nothing is noted
and no thread runs; with one, its thread lives while the limit is in force.

An explanation ends by itself at its deadline, between two steps, with the best map so far. What
that takes lies beyond the deadline: a first step, the check. So its limit has a grace, counted from
the deadline or from the beginning of a call, whichever is later. Models that are only slow are left
to end by themselves; a call that does not come back is ended.

A single node cannot be ended: ONNX Runtime looks only when it is done. The command line ends its
process then (`last_resort`). Whoever serves models of people he does not know needs a process that
he can end, too.
"""

from __future__ import annotations

import functools
import math
import numbers
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar, Token
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from ibisa_onnx.errors import DeadlineError, IbisaError, ModelError, OptionError
from ibisa_onnx.models.ort import import_onnxruntime
from ibisa_onnx.models.ort_messages import essence

if TYPE_CHECKING:
    import onnxruntime

ONLY_FATAL = 4  # errors come as exceptions; warnings are for whoever exported the model
_GRACE = 5.0  # seconds, the least: to open a graph of 1 GB, or a call of it, takes less
_GRACES = 10  # after so many, calls are ended however short they are
_STUCK = 2.0  # seconds after which a call that was told to end is taken for a single node
_LONGEST = 3600.0  # seconds that a thread waits at once
_FOREVER = 1e9  # seconds, some thirty years
_THREAD = "ibisa-onnx deadline"

_T = TypeVar("_T")
_limits: ContextVar[tuple[TimeLimit, ...]] = ContextVar("limits", default=())
_last_resort: ContextVar[Callable[[str], object] | None] = ContextVar("last_resort", default=None)


@dataclass(eq=False)
class _Call:
    """A call of ONNX Runtime that is under way: what is run, since when, and how it is ended."""

    what: str
    began: float
    end: Callable[[], object]


class TimeLimit:
    """A context in which ONNX Runtime's calls are ended when time is up, and no other begins.

    Limits may lie within each other: the first whose time is up counts. One may be entered again
    once it was left, by another thread too; its time goes on meanwhile.

    Parameters
    ----------
    seconds
        Counted from now; infinity: no limit.
    grace
        Seconds that a call has beyond that, counted from its own beginning if that is later; but
        none is left to run after ten times as much.
    """

    def __init__(self, seconds: float, grace: float = 0.0) -> None:
        self.seconds, self._grace, self._began = seconds, grace, time.monotonic()
        self._time = self._began + seconds
        self._last = self._time + _GRACES * grace
        self._over = math.inf  # when it was
        self._lock = threading.Lock()
        self._calls: set[_Call] = set()
        self._late: str | None = None  # what was, or nothing in particular; None: time is not up
        self._left: threading.Event | None = None
        self._token: Token[tuple[TimeLimit, ...]] | None = None

    def __enter__(self) -> TimeLimit:
        if math.isfinite(self._time):
            self._token = _limits.set((*_limits.get(), self))
            self._left = threading.Event()
            watched = (self._left, _last_resort.get())
            if self._late is None:
                thread = threading.Thread(target=self._watch, args=watched, name=_THREAD)
                thread.daemon = True
                thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._token is not None and self._left is not None:
            _limits.reset(self._token)
            self._left.set()
            self._token = self._left = None

    def each(self, items: Iterator[_T]) -> Iterator[_T]:
        """Yield what a generator does; the limit is in force while it works, and not in between."""
        while True:
            with self:
                try:
                    item = next(items)
                except StopIteration:
                    return
            yield item

    def check(self, what: str) -> None:
        """Raise `DeadlineError` where the time is up; `what` is run then, or was to be run."""
        if self._late is not None:
            raise self._error(what)

    def add(self, call: _Call) -> None:
        """Take note of a call before it begins."""
        with self._lock:
            self._calls.add(call)

    def remove(self, call: _Call) -> None:
        """Forget a call that is over."""
        with self._lock:
            self._calls.discard(call)

    def _watch(self, left: threading.Event, last_resort: Callable[[str], object] | None) -> None:
        """Wait for the time to be up, or for the limit to be left; end all calls in time."""
        while not left.wait(min(self._until() - time.monotonic(), _LONGEST)):
            if self._end_late():
                if last_resort and not left.wait(_STUCK) and self._calls:
                    last_resort(str(self._error("the model")))
                return

    def _until(self) -> float:
        """Return when a call may be late: one under way, or one that begins from now on."""
        with self._lock:
            begun = [call.began for call in self._calls]
        return min(self._due(each) for each in (time.monotonic(), *begun))

    def _due(self, began: float) -> float:
        """Return when a call that began then has to be over."""
        return min(max(began, self._time) + self._grace, self._last)

    def _end_late(self) -> bool:
        """End all calls if one is late, or the last moment is over; tell whether that is so."""
        now = time.monotonic()
        with self._lock:
            calls = sorted(self._calls, key=lambda call: call.began)
            late = [call for call in calls if self._due(call.began) <= now]
            if not late and now < self._last:
                return False
            self._over, self._late = now, late[0].what if late else ""  # in this order
        for call in calls:
            call.end()
        return True

    def _error(self, what: str) -> DeadlineError:
        return DeadlineError(
            f"{self._late or what} was ended after {self._over - self._began:.3g} s without an "
            f"answer (deadline: {self.seconds:g} s)",
            "if it is only slow, give a longer deadline=",
        )


def time_limit(seconds: float | None) -> TimeLimit:
    """Return a context that ends ONNX Runtime's calls when its time is up.

    For all that has no deadline of its own: opening a model, asking it, preparing a method.

        with time_limit(10):
            explainer = Explainer(file_of_a_stranger)

    Parameters
    ----------
    seconds
        Counted from now; None: no limit.

    Raises
    ------
    OptionError
        It is not a number above 0.
    DeadlineError
        Inside, from the call that was ended, and from each that comes after it.
    """
    return TimeLimit(check_deadline(seconds))


def deadline_limit(seconds: float | None) -> TimeLimit:
    """Return the limit of work that has a deadline and ends by itself; None: there is none.

    The grace is as long as the deadline, and at least 5 s.
    """
    checked = check_deadline(seconds)
    return TimeLimit(checked, max(checked, _GRACE))


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
    return float(seconds) if seconds < _FOREVER else math.inf


@contextmanager
def untimed() -> Iterator[None]:
    """Leave limits out of force: for nodes of our own behind a function, however slow that is."""
    token = _limits.set(())
    try:
        yield
    finally:
        _limits.reset(token)


@contextmanager
def last_resort(end: Callable[[str], object]) -> Iterator[None]:
    """Say what is done, with the error's words, where a call that was ended does not come back."""
    token = _last_resort.set(end)
    try:
        yield
    finally:
        _last_resort.reset(token)


def open_session(
    source: str | bytes | None,
    options: onnxruntime.SessionOptions,
    providers: Sequence[str | tuple[str, dict[str, str]]],
    what: str,
) -> onnxruntime.InferenceSession:
    """Create a session; ONNX Runtime's errors go through as they are.

    Raises
    ------
    DeadlineError
        A time limit ended it. Builds of ONNX Runtime that cannot leave off finish first.
    """
    runtime = import_onnxruntime()
    cancel = getattr(options, "set_load_cancellation_flag", lambda _: None)

    def create() -> onnxruntime.InferenceSession:
        # Without `enable_fallback=0` a failing provider is printed to stdout and replaced.
        return runtime.InferenceSession(source, options, providers=providers, enable_fallback=0)

    return _noted(create, what, lambda: cancel(True))


def run(
    session: onnxruntime.InferenceSession,
    outputs: Sequence[str],
    feeds: Mapping[str, Any],
    what: str,
) -> list[Any]:
    """Run a session on arrays; `what` is run is said where that fails.

    Raises
    ------
    DeadlineError
        A time limit ended it.
    ModelError
        ONNX Runtime failed.
    """
    names, values = list(outputs), dict(feeds)
    return list(_run(lambda options: session.run(names, values, options), what))


def run_values(
    session: onnxruntime.InferenceSession,
    outputs: Sequence[str],
    feeds: Mapping[str, Any],
    what: str,
) -> list[Any]:
    """Run a session on `OrtValue`s; parameters and errors are those of `run`."""
    names, values = list(outputs), dict(feeds)
    return list(_run(lambda options: session.run_with_ort_values(names, values, options), what))


def run_bound(session: onnxruntime.InferenceSession, binding: Any, what: str) -> None:
    """Run a session in memory that is bound to it; errors are those of `run`."""
    _run(lambda options: session.run_with_iobinding(binding, options), what)


@functools.cache
def _run_options() -> Any:
    """Return the class, found once: that takes as long as a small model does."""
    return import_onnxruntime().RunOptions


def _run(native: Callable[[Any], _T], what: str) -> _T:
    """Make a call with options of its own, and say in one line why it failed."""
    options = _run_options()()
    options.log_severity_level = ONLY_FATAL
    try:
        return _noted(lambda: native(options), what, lambda: setattr(options, "terminate", True))
    except IbisaError:
        raise
    except Exception as error:
        raise ModelError(f"{what} failed to run: {essence(error)}") from error


@contextmanager
def endable(what: str, end: Callable[[], object] = lambda: None) -> Iterator[Callable[[], object]]:
    """Lend a function that raises `DeadlineError` once the time of a limit in force is up.

    For work that looks at it itself; `end` is called for what does not.
    """
    limits = _limits.get()
    call = _Call(what, time.monotonic(), end)
    for limit in limits:
        limit.add(call)
    try:
        yield lambda: _check(limits, what)
    finally:
        for limit in limits:
            limit.remove(call)


def _noted(native: Callable[[], _T], what: str, end: Callable[[], object]) -> _T:
    """Make a call that `end` ends, as soon as the time of a limit in force is up."""
    if not _limits.get():
        return native()
    with endable(what, end) as check:
        check()  # only now: from here on it is ended with the others
        try:
            return native()
        except Exception:
            check()
            raise


def _check(limits: Sequence[TimeLimit], what: str) -> None:
    for limit in limits:
        limit.check(what)

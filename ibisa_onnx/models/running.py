"""Creates and runs all ONNX Runtime sessions, so that every call can be ended.

A model may be endless: a Loop of 2^40 iterations takes a few hundred bytes. Python cannot stop a
thread inside such a call, but ONNX Runtime checks a flag between two nodes of a graph, in each
iteration of a loop, and while it opens a session. Each call is therefore registered with the time
limits in force, and a thread that waits for the time to expire sets the flag. The call then raises
a `DeadlineError`, as does every later call under the same limit, so that no fallback starts.

Limits are held in a context variable: one caller's limits do not affect another's calls, and
worker threads get a copy (`base.py: map_concurrently`). Without a limit nothing is registered and
no thread runs; with one, its thread runs while the limit is in force.

An explanation ends on its own at its deadline, between two steps, with the best map so far. The
work this requires, a first step and the final check, lies beyond the deadline. Its limit therefore
has a grace period, counted from the deadline or from the start of a call, whichever is later. Slow
models finish on their own; a call that does not return is ended.

A single node cannot be interrupted, since ONNX Runtime checks the flag only when it is done. The
command line then ends its process (`last_resort`). A service for untrusted models requires a
process that it can end, too.
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
from ibisa_onnx.models.forking import at_work
from ibisa_onnx.models.ort import import_onnxruntime
from ibisa_onnx.models.ort_messages import essence

if TYPE_CHECKING:
    import onnxruntime

ONLY_FATAL = 4  # errors are raised as exceptions; warnings concern the model's exporter
_GRACE = 5.0  # seconds, minimum: opening or running a graph of 1 GB takes less
_GRACES = 10  # grace periods after which calls are ended, however short
_STUCK = 2.0  # seconds after which an ended call must be inside a single node
_LONGEST = 3600.0  # seconds that a thread waits at a time
_FOREVER = 1e9  # seconds, about thirty years
_THREAD = "ibisa-onnx deadline"

_T = TypeVar("_T")
_limits: ContextVar[tuple[TimeLimit, ...]] = ContextVar("limits", default=())
_last_resort: ContextVar[Callable[[str], object] | None] = ContextVar("last_resort", default=None)


@dataclass(eq=False)
class _Call:
    """A running ONNX Runtime call: what runs, since when, and how to end it."""

    what: str
    began: float
    end: Callable[[], object]


class TimeLimit:
    """A context manager that ends ONNX Runtime calls when its time expires, and prevents new ones.

    Limits may be nested; the first to expire applies. A limit may be re-entered after it was left,
    also by another thread; its time keeps running in between. See `time_limit`.

    Parameters
    ----------
    seconds
        Time from now, in seconds; infinity: no limit.
    grace
        Additional seconds for a call, counted from its own start if that is later; no call runs
        longer than ten times as much.
    """

    def __init__(self, seconds: float, grace: float = 0.0) -> None:
        self.seconds, self._grace, self._began = seconds, grace, time.monotonic()
        self._time = self._began + seconds
        self._last = self._time + _GRACES * grace
        self._over = math.inf  # when the time expired
        self._lock = threading.Lock()
        self._calls: set[_Call] = set()
        self._late: str | None = None  # the late call, "" if none was; None: not expired
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
        """Yield a generator's items; the limit applies while it works, and not in between."""
        while True:
            with self:
                try:
                    item = next(items)
                except StopIteration:
                    return
            yield item

    def check(self, what: str) -> None:
        """Raise `DeadlineError` if the time has expired; `what` names the call."""
        if self._late is not None:
            raise self._error(what)

    def add(self, call: _Call) -> None:
        """Register a call before it starts."""
        with self._lock:
            self._calls.add(call)

    def remove(self, call: _Call) -> None:
        """Unregister a finished call."""
        with self._lock:
            self._calls.discard(call)

    def _watch(self, left: threading.Event, last_resort: Callable[[str], object] | None) -> None:
        """Wait until the time expires or the limit is left; end all late calls."""
        while not left.wait(min(self._until() - time.monotonic(), _LONGEST)):
            if self._end_late():
                if last_resort and not left.wait(_STUCK) and self._calls:
                    last_resort(str(self._error("the model")))
                return

    def _until(self) -> float:
        """Return the earliest time at which a running or new call may be late."""
        with self._lock:
            begun = [call.began for call in self._calls]
        return min(self._due(each) for each in (time.monotonic(), *begun))

    def _due(self, began: float) -> float:
        """Return when a call that started at `began` must be finished."""
        return min(max(began, self._time) + self._grace, self._last)

    def _end_late(self) -> bool:
        """End all calls if one is late or the last moment has passed; return whether so."""
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
            f"{self._late or what} was ended after {self._over - self._began:.3g} s without "
            f"returning (deadline: {self.seconds:g} s)",
            "if it is only slow, pass a longer deadline=",
        )


def time_limit(seconds: float | None) -> TimeLimit:
    """Return a context manager that ends ONNX Runtime calls after a time.

    For work without a deadline of its own: opening a model, predicting, preparing a method. Use it
    with untrusted models, which may be endless.

    Parameters
    ----------
    seconds
        Time from now, in seconds; None: no limit.

    Returns
    -------
    TimeLimit
        The context manager.

    Raises
    ------
    OptionError
        `seconds` is not a number above 0.
    DeadlineError
        Inside the context: the call was ended, or started after the time had expired.

    Examples
    --------
    ```python
    with ibisa_onnx.time_limit(10):
        explainer = ibisa_onnx.Explainer(untrusted_file)
        predictions = explainer.predict("dog.jpg")
    ```
    """
    return TimeLimit(check_deadline(seconds))


def deadline_limit(seconds: float | None) -> TimeLimit:
    """Return the limit for work that has a deadline and ends on its own; None: no limit.

    The grace period is as long as the deadline, and at least 5 s.
    """
    checked = check_deadline(seconds)
    return TimeLimit(checked, max(checked, _GRACE))


def check_deadline(seconds: float | None, name: str = "deadline") -> float:
    """Return a validated number of seconds, infinity for None.

    Raises
    ------
    OptionError
        It is not a number above 0.
    """
    if seconds is None:
        return math.inf
    if not isinstance(seconds, numbers.Real) or not seconds > 0:
        raise OptionError(f"{name} is {seconds!r}; pass a number of seconds above 0")
    return float(seconds) if seconds < _FOREVER else math.inf


@contextmanager
def untimed() -> Iterator[None]:
    """Suspend limits, for our own nodes behind a function, however slow that is."""
    token = _limits.set(())
    try:
        yield
    finally:
        _limits.reset(token)


@contextmanager
def last_resort(end: Callable[[str], object]) -> Iterator[None]:
    """Set the action, called with the error's text, for an ended call that does not return."""
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
    """Create a session; ONNX Runtime's errors propagate unchanged.

    Raises
    ------
    DeadlineError
        A time limit ended it. Builds of ONNX Runtime that cannot cancel loading finish first.
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
    """Run a session on arrays; `what` names the model in error messages.

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
    """Run a session with bound memory; errors are those of `run`."""
    _run(lambda options: session.run_with_iobinding(binding, options), what)


@functools.cache
def _run_options() -> Any:
    """Return the class, imported once, as that takes as long as a small model."""
    return import_onnxruntime().RunOptions


def _run(native: Callable[[Any], _T], what: str) -> _T:
    """Make a call with its own options, and raise a one-line error if it fails."""
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
    """Yield a function that raises `DeadlineError` once a limit in force has expired.

    For work that calls the function itself; `end` is called for work that does not.
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
    """Make a call that `end` ends as soon as a limit in force has expired."""
    with at_work():
        if not _limits.get():
            return native()
        with endable(what, end) as check:
            check()  # only now: from here on the call is registered
            try:
                return native()
            except Exception:
                check()
                raise


def _check(limits: Sequence[TimeLimit], what: str) -> None:
    for limit in limits:
        limit.check(what)

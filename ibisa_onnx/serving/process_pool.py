"""A pool of worker processes that survives the death of any of them.

`concurrent.futures` gives up its whole pool when one worker is killed, and does not tell whose
work it was. Here each worker has a connection of its own: when it closes, a new worker is started
and gets the same item again; an item that kills its workers twice becomes a failure.

Workers are spawned, since sessions of ONNX Runtime do not survive a fork. They ignore Ctrl-C, which
is the parent's to handle, and end when the parent is gone, however it ended.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, TypeVar

from ibisa_onnx.errors import IbisaError, ModelError
from ibisa_onnx.serving.jobs import MOST_DEATHS, killed

_OPENINGS = 3  # deaths while opening, with no progress in between, until the job gives up
_GRACE = 5.0  # seconds for workers to end by themselves
_POLL = 0.1  # seconds between two looks at whether to stop

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")
Opening = Callable[[Callable[[], bool]], Callable[[Item], Outcome]]
"""Opens a model in a worker; returns the function that does its work. It is passed a function that
tells whether to stop. All of it is pickled."""


@dataclass(frozen=True)
class Lost:
    """The outcome of an item that killed its workers; `message` says how."""

    message: str


class ProcessPool(Generic[Item, Outcome]):
    """Does the work of many items in spawned processes; a context manager.

    Parameters
    ----------
    opening
        What each worker calls once.
    workers
        Number of processes.
    """

    def __init__(self, opening: Opening[Item, Outcome], workers: int) -> None:
        self._opening, self._count = opening, workers
        self._context = multiprocessing.get_context("spawn")
        self._workers: list[_Worker] = []
        self._deaths_at_opening = 0
        self._stopping = False

    def __enter__(self) -> ProcessPool[Item, Outcome]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pids(self) -> list[int]:
        """The process numbers of the workers."""
        return [each.process.pid for each in self._workers if each.process.pid is not None]

    def run(
        self, items: Iterable[Item], stop: Callable[[], bool] = lambda: False
    ) -> Iterator[tuple[Item, Outcome | Lost]]:
        """Yield items with their outcomes as they are finished; items are drawn as needed.

        Parameters
        ----------
        items
            The items, which are pickled.
        stop
            Once it returns True, the items in work end early, and no others begin.

        Raises
        ------
        IbisaError
            What a worker raised: the job cannot go on.
        """
        coming, again = iter(items), deque[_Try[Item]]()
        if self._is_over(coming, again):
            return
        self._workers = [self._start() for _ in range(self._count)]
        while True:
            self._stop_if(stop)
            for worker in [each for each in self._workers if each.ready and each.at is None]:
                if not self._stopping:
                    self._give(worker, self._next(coming, again), again)
            busy = any(each.at is not None for each in self._workers)
            if not busy and (self._stopping or self._is_over(coming, again)):
                return
            for connection in wait([each.connection for each in self._workers], _POLL):
                worker = next(each for each in self._workers if each.connection is connection)
                yield from self._hear(worker, again)

    def _stop_if(self, stop: Callable[[], bool]) -> None:
        """Tell busy workers to end early, once."""
        if not self._stopping and stop():
            self._stopping = True
            for worker in self._workers:
                if worker.at is not None:
                    worker.send(None)

    def _give(self, worker: _Worker, tried: _Try[Item] | None, again: deque[_Try[Item]]) -> None:
        """Send an item to an idle worker."""
        if tried is None:
            return
        if worker.send((tried.item,)):
            worker.at = tried
        else:  # it died while it was idle, which `wait` reports
            again.append(tried)

    def _is_over(self, coming: Iterator[Item], again: deque[_Try[Item]]) -> bool:
        """Return whether no items are left; one that is found is put back."""
        found = self._next(coming, again)
        if found is not None:
            again.appendleft(found)
        return found is None

    def _next(self, coming: Iterator[Item], again: deque[_Try[Item]]) -> _Try[Item] | None:
        if again:
            return again.popleft()
        for item in coming:
            return _Try(item)
        return None

    def _hear(
        self, worker: _Worker, again: deque[_Try[Item]]
    ) -> Iterator[tuple[Item, Outcome | Lost]]:
        """Handle what a worker has sent, or its death."""
        try:
            kind, content = worker.connection.recv()
        except (EOFError, OSError, pickle.UnpicklingError):  # the last: killed while it wrote
            yield from self._bury(worker, again)
            return
        if kind == _FAILED:
            error, cause = content
            raise error from cause
        if kind == _READY:
            worker.ready, self._deaths_at_opening = True, 0
            return
        self._deaths_at_opening = 0  # others work, so it is no fault of the model
        done, worker.at = worker.at, None
        assert done is not None
        yield done.item, content

    def _bury(
        self, worker: _Worker, again: deque[_Try[Item]]
    ) -> Iterator[tuple[Item, Outcome | Lost]]:
        """Replace a worker that died, and try its item again, or give it up."""
        worker.end(_GRACE)
        ending = _ending(worker.process.exitcode)
        if not worker.ready:
            self._deaths_at_opening += 1
            if self._deaths_at_opening >= _OPENINGS:
                raise ModelError(
                    f"{_OPENINGS} worker processes in succession died while they opened the model "
                    f"({ending}); use fewer jobs, or free memory"
                )
        self._workers.remove(worker)
        if not self._stopping:
            self._workers.append(self._start())
        if (tried := worker.at) is None:
            return
        tried.deaths += 1
        if tried.deaths >= MOST_DEATHS:
            yield tried.item, Lost(killed(tried.deaths, ending))
        else:
            again.append(tried)

    def _start(self) -> _Worker:
        here, there = self._context.Pipe()
        process = self._context.Process(target=_work, args=(there, self._opening), daemon=True)
        process.start()
        there.close()  # so that the connection closes when the worker is gone
        return _Worker(process, here)

    def close(self) -> None:
        """End all workers, at once if they are idle, and what they are doing otherwise."""
        for worker in self._workers:
            worker.connection.close()
        for worker in self._workers:
            worker.end(_GRACE if worker.at is None else 0.0)
        self._workers = []


_READY, _DONE, _FAILED = "ready", "done", "failed"


@dataclass
class _Try(Generic[Item]):
    """An item, and how many workers it has killed."""

    item: Item
    deaths: int = 0


@dataclass(eq=False)
class _Worker:
    """A worker process, and what it is doing."""

    process: Any
    connection: Connection[Any, Any]
    ready: bool = False
    at: _Try[Any] | None = None

    def send(self, content: Any) -> bool:
        """Send it something; False if it is gone."""
        try:
            self.connection.send(content)
        except (BrokenPipeError, ConnectionResetError):
            return False
        return True

    def end(self, grace: float) -> None:
        """Wait for the process to end, then kill it."""
        self.process.join(grace)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self.connection.close()


def _work(connection: Connection[Any, Any], opening: Opening[Any, Any]) -> None:
    """Open the model, then do what is sent, until the connection closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _discard_output()
    stopped = _Stopped(connection)
    try:
        work = opening(stopped)
        connection.send((_READY, None))
        while True:
            content = connection.recv()
            if content is None:
                return
            connection.send((_DONE, work(*content)))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        os._exit(1)  # the parent is gone, and nobody is left to tell
    except BaseException as error:
        with suppress(OSError):
            connection.send((_FAILED, (_portable(error), _cause(error))))


@dataclass
class _Stopped:
    """Tells a worker to stop: when the parent sent something while it works, or is gone."""

    connection: Connection[Any, Any]
    requested: bool = False

    def __call__(self) -> bool:
        if not self.requested and self.connection.poll():
            try:
                self.requested = self.connection.recv() is None
            except (EOFError, OSError):
                os._exit(1)
        return self.requested


def _portable(error: BaseException) -> IbisaError | MemoryError:
    """Return an error that can be pickled."""
    if isinstance(error, IbisaError):
        return type(error)(error.problem, error.advice)
    if isinstance(error, MemoryError):
        return MemoryError(str(error))
    return ModelError(f"unexpected {type(error).__name__} in a worker process: {error}")


def _cause(error: BaseException) -> OSError | None:
    """Return the failed system call behind an error, which pickling would lose."""
    cause = error.__cause__
    return OSError(cause.errno, cause.strerror) if isinstance(cause, OSError) else None


def _discard_output() -> None:
    """Discard what native libraries print; the parent writes all messages."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        os.dup2(nowhere, descriptor)
    os.close(nowhere)


def _ending(code: int | None) -> str:
    """Return how a process ended, in words: "signal 9 (SIGKILL)"."""
    if code is None or code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {-code} ({signal.Signals(-code).name})"
    except ValueError:
        return f"signal {-code}"

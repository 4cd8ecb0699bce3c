"""A queue of requests in front of one explainer, explained in batches.

Requests of many threads wait in a bounded queue. A worker takes the oldest, adds those that can be
explained in the same call (the same seed and method, and enough time before their own deadlines),
and explains them together. Every map is the one that `Explainer.explain` returns for its image
alone; an image that fails, fails its own request only.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ibisa_onnx.checks import check_count, check_type
from ibisa_onnx.errors import DeadlineError, OptionError, OverloadError
from ibisa_onnx.methods.ibisa.options import Options, options_named
from ibisa_onnx.methods.settings import check_seed
from ibisa_onnx.methods.stopping import DEADLINE
from ibisa_onnx.models.ort import CPU
from ibisa_onnx.models.running import check_deadline

if TYPE_CHECKING:
    from ibisa_onnx.explainer import Explainer, Image, Target
    from ibisa_onnx.explanation import Explanation
    from ibisa_onnx.methods.ibisa.method import Ibisa
    from ibisa_onnx.methods.ibisa.options import PresetName

_MARGIN = 1.5  # of the expected seconds of a batch that a request must have left to join it
_MEMORY = 0.3  # weight of the latest batch in the expected seconds per image
_NAME = "ibisa-onnx scheduler"


@dataclass(eq=False)
class _Request:
    """One request: its arguments, its deadline in seconds of `time.perf_counter`, its future."""

    image: Any
    target: Any
    seed: int
    method: Ibisa
    due: float
    served: Any = None
    several: bool = False
    cancelled: bool = False
    future: Future[Any] = field(default_factory=Future)

    @property
    def key(self) -> Hashable | None:
        """What requests of one batch share; None for a request that is explained alone."""
        return None if self.several or self.served is not None else (self.seed, self.method)

    @property
    def size(self) -> int:
        """Bytes that the queued image holds."""
        if isinstance(self.image, bytes | bytearray | memoryview):
            return len(self.image)
        if isinstance(size := getattr(self.image, "size", 0), tuple):  # of a PIL image
            return math.prod(size) * len(self.image.getbands())
        return int(getattr(self.image, "nbytes", size if isinstance(size, int) else 0))


class Scheduler:
    """Explains requests of many threads in batches.

    Close it, or use it as a context manager. Like the sessions of ONNX Runtime it does not survive
    a fork: create it in the process that uses it.

    Parameters
    ----------
    explainer
        The explainer.
    max_batch
        Maximum images per batch; None: measured (`serving.batch_size.measured_batch`), or 1 if
        several workers share the cores.
    max_queue
        Maximum number of waiting requests.
    workers
        Batches explained at a time; None: on the CPU, as many as the cores hold sessions with the
        model's `threads`, else 1.
    deadline
        Seconds for requests that specify none; None: no deadline.
    stop
        Called between the steps of every request; returning True ends it with the map so far.
    max_bytes
        Maximum size of all waiting images in bytes; images given by path count nothing.

    Attributes
    ----------
    max_batch : int
        Maximum images per batch.

    Raises
    ------
    OptionError
        An argument is invalid.

    Examples
    --------
    ```python
    with Scheduler(explainer, max_queue=100) as scheduler:
        futures = [scheduler.submit(image, deadline=2) for image in images]
        explanations = [future.result() for future in futures]
    ```
    """

    def __init__(
        self,
        explainer: Explainer,
        *,
        max_batch: int | None = None,
        max_queue: int = 64,
        workers: int | None = None,
        deadline: float | None = None,
        stop: Callable[[], bool] | None = None,
        max_bytes: int = 1 << 30,
    ) -> None:
        workers = default_workers(explainer) if workers is None else workers
        workers = check_count("workers", workers)
        self._stop = stop or (lambda: False)
        self._most = check_count("max_queue", max_queue)
        self._most_bytes = check_count("max_bytes", max_bytes)
        self._deadline = check_deadline(deadline)
        self._explainer = explainer
        if max_batch is None:
            from ibisa_onnx.serving.batch_size import measured_batch

            max_batch = 1 if workers > 1 else measured_batch(explainer)
        self.max_batch = check_count("max_batch", max_batch)
        self._changed = threading.Condition()
        self._queue: deque[_Request] = deque()
        self._running: set[_Request] = set()
        self._pace: dict[Ibisa, float] = {}
        self._bytes, self._closed, self._process = 0, False, os.getpid()
        self._threads = [
            threading.Thread(target=self._work, name=_NAME, daemon=True) for _ in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Scheduler:
        return self

    def __exit__(self, *error: object) -> None:
        self.close(drain=error[0] is None)

    @property
    def queue_length(self) -> int:
        """Number of waiting requests."""
        return len(self._queue)

    @property
    def in_flight(self) -> int:
        """Number of requests being explained."""
        return len(self._running)

    def submit(
        self,
        image: Image,
        target: Target | None = None,
        *,
        seed: int = 0,
        deadline: float | None = None,
        options: Options | PresetName | None = None,
        served: Any = None,
    ) -> Future[Explanation]:
        """Queue one explanation.

        Parameters
        ----------
        image, target, seed, served
            As `Explainer.explain`.
        deadline
            Seconds from now, waiting included; None: the scheduler's default.
        options
            IBISA's settings, or a preset; None: the explainer's.

        Returns
        -------
        Future
            Its result is the explanation, its exception what `explain` raises. `cancel()` drops it
            while it waits; `stop` also ends it while it runs.

        Raises
        ------
        OverloadError
            The queue is full.
        OptionError
            An argument is invalid, or the scheduler is closed.
        """
        return self._add(self._request(image, target, seed, deadline, options, served))

    def submit_all(
        self,
        image: Image,
        targets: Sequence[Target] | Target | None = None,
        *,
        seed: int = 0,
        deadline: float | None = None,
        options: Options | PresetName | None = None,
    ) -> Future[list[Explanation]]:
        """Queue several targets of one image, explained together; see `Explainer.explain_all`.

        Parameters and errors are those of `submit`, the result is a list in the targets' order.
        """
        request = self._request(image, targets, seed, deadline, options, None)
        request.several = True
        return self._add(request)

    def stop(self, future: Future[Any]) -> None:
        """Cancel a request, whether it waits or runs; its result raises `CancelledError`.

        A batch ends when all its requests are cancelled; until then a cancelled one costs its part.
        """
        future.cancel()
        with self._changed:
            for request in [each for each in self._queue if each.future is future]:
                self._take(request)  # it must not take the place of another
            for request in self._running:
                request.cancelled |= request.future is future

    def close(self, *, drain: bool = True) -> None:
        """End the workers, after all waiting requests if `drain`, else cancelling everything."""
        with self._changed:
            self._closed = True
            if not drain:
                for request in self._queue:
                    request.future.cancel()
                for request in self._running:
                    request.cancelled = True
            self._changed.notify_all()
        if self._process == os.getpid():
            for thread in self._threads:
                if thread is not threading.current_thread():
                    thread.join()

    def _request(
        self,
        image: Image,
        target: Any,
        seed: int,
        deadline: float | None,
        options: Options | PresetName | None,
        served: Any,
    ) -> _Request:
        check_seed(seed)
        check_type("options", options, (str, Options, type(None)), "an Options or a preset's name")
        seconds = self._deadline if deadline is None else check_deadline(deadline)
        method = self._explainer.method
        if options is not None:
            method = replace(method, options=options_named(options))
        due = time.perf_counter() + seconds
        return _Request(image, target, int(seed), method, due, served)

    def _add(self, request: _Request) -> Future[Any]:
        if self._process != os.getpid():
            raise OptionError("the scheduler was created before a fork; create one per process")
        size = request.size
        with self._changed:
            if self._closed:
                raise OptionError("the scheduler is closed; create another")
            if len(self._queue) >= self._most or self._bytes + size > self._most_bytes:
                raise OverloadError(f"the queue is full ({len(self._queue)} waiting); retry later")
            self._queue.append(request)
            self._bytes += size
            self._changed.notify()
        return request.future

    def _work(self) -> None:
        """Explain batches until the scheduler is closed and the queue is empty."""
        while (batch := self._next()) is not None:
            begin = time.perf_counter()
            try:
                self._explain(batch)
            finally:
                seconds = (time.perf_counter() - begin) / max(len(batch), 1)
                with self._changed:
                    self._running.difference_update(batch)
                    for method in {each.method for each in batch if each.key is not None}:
                        known = self._pace.get(method, seconds)
                        self._pace[method] = known + _MEMORY * (seconds - known)

    def _next(self) -> list[_Request] | None:
        """Wait for requests and return a batch of them; None if there will be no more."""
        with self._changed:
            while not self._queue and not self._closed:
                self._changed.wait()
            if not self._queue:
                return None
            batch = [first := self._take(self._queue[0])]
            if first.key is not None:
                for request in [each for each in self._queue if each.key == first.key]:
                    if len(batch) == self.max_batch:
                        break
                    seconds = _MARGIN * self._pace.get(first.method, math.inf) * (len(batch) + 1)
                    slack = min(first.due, request.due) - time.perf_counter()
                    if slack >= seconds or slack == math.inf:
                        batch.append(self._take(request))
            started = [each for each in batch if each.future.set_running_or_notify_cancel()]
            self._running |= set(started)
            return started

    def _take(self, request: _Request) -> _Request:
        self._queue.remove(request)
        self._bytes -= request.size
        return request

    def _explain(self, batch: Sequence[_Request]) -> None:
        """Explain a batch; each request alone if that fails or a deadline cut others short."""
        found: Sequence[Explanation | None] = [None] * len(batch)
        if len(batch) > 1:
            with suppress(Exception):  # each request then gets its own
                found = self._together(batch)
        least = min((each.due for each in batch), default=math.inf)
        for request, explanation in zip(batch, found, strict=True):
            if explanation is not None and request.due > least:
                spoiled = explanation.completion.cut_short == DEADLINE
                explanation = None if spoiled else explanation
            self._settle(request, explanation)

    def _together(self, batch: Sequence[_Request]) -> Sequence[Explanation | None]:
        """Explain several requests in one call."""
        first = batch[0]
        return self._explainer.explain_batch(
            [each.image for each in batch],
            [each.target for each in batch],
            seed=first.seed,
            deadline=_left(min(each.due for each in batch)),
            stop=lambda: self._stop() or all(each.cancelled for each in batch),
            method=first.method,
        )

    def _alone(self, request: _Request) -> Any:
        """Explain one request."""
        given: dict[str, Any] = {
            "seed": request.seed,
            "deadline": _left(request.due),
            "stop": lambda: self._stop() or request.cancelled,
            "method": request.method,
        }
        if request.several:
            return self._explainer.explain_all(request.image, request.target, **given)
        if request.served is not None:
            given["served"] = request.served
        return self._explainer.explain(request.image, request.target, **given)

    def _settle(self, request: _Request, explanation: Explanation | None) -> None:
        """Set a request's result; None: it is explained alone first."""
        result: Any = explanation
        try:
            if result is None and not request.cancelled:
                result = self._alone(request)
        except BaseException as error:
            request.future.set_exception(CancelledError() if request.cancelled else error)
            return
        if request.cancelled:
            request.future.set_exception(CancelledError())
        else:
            request.future.set_result(result)


def default_workers(explainer: Explainer) -> int:
    """Return how many explanations the cores compute at a time: 1 if one uses them all."""
    from ibisa_onnx.models.onnx_session import DeployedModel, cores

    model = explainer.model
    if not isinstance(model, DeployedModel) or model.providers != (CPU,):
        return 1
    return max(1, cores() // model.max_concurrency)  # the session's threads


def _left(due: float) -> float | None:
    """Return the seconds left until a deadline; None if there is none."""
    if due == math.inf:
        return None
    left = due - time.perf_counter()
    if left <= 0:
        raise DeadlineError("the deadline passed while the request waited; allow more time")
    return left

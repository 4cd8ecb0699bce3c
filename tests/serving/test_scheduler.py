"""The scheduler: batches from a queue, each map the one that `explain` returns alone."""

from __future__ import annotations

import os
import threading
from concurrent.futures import CancelledError, Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ibisa_onnx as ibisa
from ibisa_onnx.caching import BuiltOnce
from ibisa_onnx.demo import model_path
from ibisa_onnx.demo.scenes import draw_scene
from ibisa_onnx.models import onnx_session
from ibisa_onnx.serving import batch_size
from ibisa_onnx.serving.scheduler import Scheduler, default_workers
from ibisa_onnx.statements import Completion


@pytest.fixture(scope="module")
def explainer() -> ibisa.Explainer:
    return ibisa.Explainer(model_path(), threads=1, providers=["cpu"])


def scenes(count: int) -> list[np.ndarray]:
    return [draw_scene(np.random.default_rng(seed), count=2).image for seed in range(count)]


class Gate:
    """An explainer whose calls are noted, and wait until they are let through."""

    def __init__(self, inner: ibisa.Explainer) -> None:
        self.inner, self.method, self.model = inner, inner.method, inner.model
        self.calls: list[int] = []
        self.entered, self.open = threading.Semaphore(0), threading.Event()

    def _pass(self, count: int) -> None:
        self.calls.append(count)
        self.entered.release()
        assert self.open.wait(30)

    def explain(self, image: Any, target: Any = None, **given: Any) -> ibisa.Explanation:
        self._pass(1)
        return self.inner.explain(image, target, **given)

    def explain_all(self, image: Any, targets: Any = None, **given: Any) -> Any:
        self._pass(1)
        return self.inner.explain_all(image, targets, **given)

    def explain_batch(self, images: Any, targets: Any = None, **given: Any) -> Any:
        self._pass(len(images))
        return self.inner.explain_batch(images, targets, **given)


@pytest.fixture
def gate(explainer: ibisa.Explainer) -> Gate:
    return Gate(explainer)


def busy(scheduler: Scheduler, gate: Gate) -> Future[ibisa.Explanation]:
    """Submit a request, and wait until it is being explained."""
    first = scheduler.submit(scenes(1)[0])
    assert gate.entered.acquire(timeout=30)
    return first


def test_requests_of_many_threads_share_batches(gate: Gate, explainer: ibisa.Explainer) -> None:
    images = scenes(6)
    with Scheduler(gate, workers=1, max_batch=4) as scheduler:
        first = busy(scheduler, gate)
        futures = [scheduler.submit(each) for each in images]
        assert (scheduler.queue_length, scheduler.in_flight) == (6, 1)
        gate.open.set()
        found = [each.result(60) for each in futures]
    assert gate.calls == [1, 4, 2]
    assert (scheduler.queue_length, scheduler.in_flight) == (0, 0)
    for image, each in zip(images, found, strict=True):
        np.testing.assert_array_equal(each.map, explainer.explain(image).map)
    np.testing.assert_array_equal(first.result().map, found[0].map)


def test_other_seeds_and_options_get_calls_of_their_own(gate: Gate) -> None:
    with Scheduler(gate, workers=1, max_batch=8) as scheduler:
        busy(scheduler, gate)
        same = [scheduler.submit(each, seed=1) for each in scenes(2)]
        fast = scheduler.submit(scenes(1)[0], seed=1, options="fast")
        gate.open.set()
        assert [each.result(60).provenance.seed for each in same] == [1, 1]
        assert fast.result(60).completion.planned < same[0].result().completion.planned
    assert gate.calls == [1, 2, 1]


def test_several_targets_are_one_request(gate: Gate) -> None:
    gate.open.set()
    with Scheduler(gate, workers=1, max_batch=8) as scheduler:
        found = scheduler.submit_all(scenes(1)[0], "top:3").result(60)
    assert len({each.target.index for each in found}) == 3


def test_a_bad_image_fails_only_its_own_request(gate: Gate) -> None:
    with Scheduler(gate, workers=1, max_batch=4) as scheduler:
        busy(scheduler, gate)
        good, bad, other = (scheduler.submit(e) for e in (scenes(1)[0], b"no image", scenes(2)[1]))
        gate.open.set()
        assert isinstance(good.result(60), ibisa.Explanation)
        assert isinstance(other.result(60), ibisa.Explanation)
        assert isinstance(bad.exception(60), ibisa.ImageError)


def test_a_full_queue_rejects(gate: Gate) -> None:
    with Scheduler(gate, workers=1, max_batch=1, max_queue=2) as scheduler:
        busy(scheduler, gate)
        waiting = [scheduler.submit(scenes(1)[0]) for _ in range(2)]
        with pytest.raises(ibisa.OverloadError, match="queue is full"):
            scheduler.submit(scenes(1)[0])
        gate.open.set()
        assert all(each.result(60) for each in waiting)


def test_waiting_images_have_a_limit_in_bytes(gate: Gate) -> None:
    image = scenes(1)[0]
    with Scheduler(gate, workers=1, max_batch=1, max_bytes=2 * image.nbytes) as scheduler:
        busy(scheduler, gate)
        scheduler.submit(image)
        scheduler.submit(image.tobytes()).cancel()
        with pytest.raises(ibisa.OverloadError):
            scheduler.submit(image)
        gate.open.set()


def test_a_deadline_that_passes_in_the_queue_costs_nothing(gate: Gate) -> None:
    with Scheduler(gate, workers=1, max_batch=4) as scheduler:
        busy(scheduler, gate)
        late = scheduler.submit(scenes(1)[0], deadline=1e-6)
        gate.open.set()
        with pytest.raises(ibisa.DeadlineError, match="waited"):
            late.result(60)
    assert gate.calls == [1]


def test_a_tight_deadline_does_not_spoil_the_others(explainer: ibisa.Explainer) -> None:
    """A batch that its tightest deadline cuts short is made again for those with more time."""

    class Cutting(Gate):
        def explain_batch(self, images: Any, targets: Any = None, **given: Any) -> Any:
            found = super().explain_batch(images, targets, **given)
            cut = Completion(3, 10, "steps", "deadline")
            return [replace(each, completion=cut) for each in found]

    gate = Cutting(explainer)
    with Scheduler(gate, workers=1, max_batch=4) as scheduler:
        first = busy(scheduler, gate)
        gate.open.set()
        first.result(60)
        gate.open.clear()
        busy(scheduler, gate)
        tight, loose = (
            scheduler.submit(e, deadline=d) for e, d in zip(scenes(2), (500, 900), strict=True)
        )
        gate.open.set()
        assert tight.result(60).completion.cut_short == "deadline"
        assert loose.result(60).completion.cut_short is None
    assert gate.calls == [1, 1, 2, 1]


def test_a_waiting_request_can_be_dropped(gate: Gate) -> None:
    with Scheduler(gate, workers=1, max_batch=1) as scheduler:
        busy(scheduler, gate)
        dropped = scheduler.submit(scenes(1)[0])
        scheduler.stop(dropped)
        assert dropped.cancelled()
        assert scheduler.queue_length == 0
        gate.open.set()
    assert gate.calls == [1]


def test_a_running_request_can_be_stopped(gate: Gate) -> None:
    with Scheduler(gate, workers=1, max_batch=1) as scheduler:
        running = busy(scheduler, gate)
        scheduler.stop(running)
        gate.open.set()
        with pytest.raises(CancelledError):
            running.result(60)


@pytest.mark.parametrize("drain", [True, False])
def test_closing_leaves_no_thread_and_no_request(gate: Gate, drain: bool) -> None:
    before = threading.active_count()
    scheduler = Scheduler(gate, workers=1, max_batch=2)
    busy(scheduler, gate)
    waiting = scheduler.submit(scenes(1)[0])
    closing = threading.Thread(target=scheduler.close, kwargs={"drain": drain})
    closing.start()
    gate.open.set()
    closing.join(60)
    assert waiting.cancelled() != drain
    assert waiting.done()
    assert threading.active_count() == before
    with pytest.raises(ibisa.OptionError, match="closed"):
        scheduler.submit(scenes(1)[0])


def test_the_served_prediction_is_verified(explainer: ibisa.Explainer) -> None:
    image = scenes(1)[0]
    top = explainer.predict(image)
    with Scheduler(explainer, max_batch=4) as scheduler:
        assert scheduler.submit(image, served=top[0].index).result(60).target.index == top[0].index
        wrong = scheduler.submit(image, served=top[1].index)
        assert isinstance(wrong.exception(60), ibisa.PredictionMismatchError)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_after_a_fork_it_says_so(explainer: ibisa.Explainer, monkeypatch) -> None:
    with Scheduler(explainer, max_batch=1) as scheduler:
        monkeypatch.setattr(os, "getpid", lambda: -1)
        with pytest.raises(ibisa.OptionError, match="fork"):
            scheduler.submit(scenes(1)[0])
        monkeypatch.undo()


@pytest.mark.parametrize(("threads", "workers"), [(1, 4), (2, 2), (3, 1), (None, 1)])
def test_workers_share_the_cores(monkeypatch, threads: int | None, workers: int) -> None:
    monkeypatch.setattr(onnx_session, "cores", lambda: 4)
    explainer = ibisa.Explainer(model_path(), threads=threads, providers=["cpu"])
    assert default_workers(explainer) == workers


@pytest.mark.parametrize(
    "given", [{"max_batch": 0}, {"max_queue": 0}, {"workers": 0}, {"max_bytes": 0}, {"deadline": 0}]
)
def test_arguments_are_checked(explainer: ibisa.Explainer, given: dict[str, int]) -> None:
    with pytest.raises(ibisa.OptionError, match=next(iter(given))):
        Scheduler(explainer, **{"max_batch": 1, **given})


# --- the batch size ---


@pytest.mark.parametrize(
    ("seconds", "best"),
    [
        ({1: 0.1, 2: 0.1, 4: 0.1, 8: 0.1}, 1),
        ({1: 0.1, 2: 0.06, 4: 0.05, 8: 0.05}, 4),
        ({1: 0.1, 2: 0.08, 4: 0.05, 8: 0.03}, 8),
        ({1: 5.0}, 4),
    ],
    ids=["all alike", "four", "eight", "slow"],
)
def test_the_smallest_of_the_fastest(
    monkeypatch, explainer, seconds, best: int, tmp_path: Path
) -> None:
    now = [0.0]

    class Clocked:
        preprocessing, versions = explainer.preprocessing, explainer.versions
        cache = tmp_path / "cache"

        @property
        def settings(self) -> dict[str, str]:
            return {"case": repr(seconds)}

        def explain(self, image: Any) -> None:
            now[0] += 0.01

        def explain_batch(self, images: Any) -> None:
            now[0] += len(images) * seconds[len(images)] / 2

    monkeypatch.setattr(batch_size.time, "perf_counter", lambda: now[0])
    assert batch_size.measured_batch(Clocked()) == best
    before = now[0]
    assert batch_size.measured_batch(Clocked()) == best
    assert now[0] == before  # remembered
    monkeypatch.setattr(batch_size, "_measured", BuiltOnce())  # as in a new process
    assert batch_size.measured_batch(Clocked()) == best
    assert now[0] == before
    (kept,) = Clocked.cache.iterdir()
    for damage in (b"3\n", b"", b"8" * 100):
        kept.write_bytes(damage)
        monkeypatch.setattr(batch_size, "_measured", BuiltOnce())
        assert batch_size.measured_batch(Clocked()) == best
    assert now[0] > before
    assert kept.read_bytes() == b"%d\n" % best

"""Passes are counted from any thread, in the run that they belong to and in the model's total."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ibisa_onnx.errors import ModelError, OutputError
from ibisa_onnx.models.base import ImageModel
from ibisa_onnx.models.function import InputSpec
from ibisa_onnx.models.passes import PassCount, PassCounter

SIDE = 4
AT_ONCE = 30.0  # seconds for threads to find each other, no matter how busy the machine is


@pytest.fixture
def hasty() -> Iterator[None]:
    """Threads take turns as often as they can, so that what is not locked goes wrong."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


# -- counters


def test_a_call_is_counted_with_its_images() -> None:
    passes = PassCounter()
    passes.count_forward(3)
    passes.count_backward(2)
    passes.count_forward(1)
    assert passes.count == PassCount(4, 2, 2, 1)
    assert (passes.forward, passes.backward) == (4, 2)
    assert (passes.forward_calls, passes.backward_calls) == (2, 1)


def test_a_scope_begins_at_nothing_and_counts_in_all_that_are_around_it() -> None:
    total = PassCounter()
    total.count_forward(5)
    run = total.scope()
    part, other = run.scope(), total.scope()
    assert run.count == part.count == PassCount()
    part.count_forward(2)
    run.count_backward(1)
    other.count_forward(7)
    assert part.count == PassCount(2, 0, 1, 0)
    assert run.count == PassCount(2, 1, 1, 1)
    assert other.count == PassCount(7, 0, 1, 0)
    assert total.count == PassCount(14, 1, 3, 1)


def test_what_was_read_does_not_change_any_more() -> None:
    passes = PassCounter()
    before = passes.count
    passes.count_forward(1)
    assert before == PassCount()


COUNTS = st.builds(PassCount, *[st.integers(0, 1000)] * 4)


@given(COUNTS, st.integers(1, 20))
def test_shares_add_up_and_differ_by_one_at_most(count: PassCount, parts: int) -> None:
    shares = count.split(parts)
    assert len(shares) == parts
    assert sum(shares, PassCount()) == count
    for name in ("forward", "backward", "forward_calls", "backward_calls"):
        each = [getattr(share, name) for share in shares]
        assert each == sorted(each, reverse=True)  # the first ones are one larger
        assert each[0] - each[-1] <= 1


@pytest.mark.usefixtures("hasty")
def test_no_pass_is_lost_where_many_threads_count() -> None:
    total = PassCounter()
    runs = [total.scope() for _ in range(4)]

    def count(run: PassCounter) -> None:
        for _ in range(500):
            run.count_forward(2)
            run.count_backward(1)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(count, runs * 2))
    assert [run.count for run in runs] == [PassCount(2000, 1000, 1000, 1000)] * 4
    assert total.count == PassCount(8000, 4000, 4000, 4000)


# -- models


class Pixels(ImageModel):
    """Scores [N, 3]: the mean of each channel.

    Its own thread pool works on the images of a call. Where `meet` is given, so many calls wait
    for each other before any is answered.
    """

    def __init__(self, *, meet: int = 1, **options: Any) -> None:
        shape = (options.pop("batch", None), 3, SIDE, SIDE)
        super().__init__(InputSpec(shape).signature("pixels"), **options)
        self.calls: list[int] = []
        self.threads: set[int] = set()
        self.barrier = threading.Barrier(meet)

    def infer(
        self, feeds: Mapping[str, np.ndarray], outputs: Sequence[str]
    ) -> dict[str, np.ndarray]:
        self.barrier.wait(AT_ONCE)
        images = feeds[self.image.name]
        self.calls.append(len(images))  # atomic
        self.threads.add(threading.get_ident())
        with ThreadPoolExecutor(3) as pool:
            scores = list(pool.map(lambda image: image.mean((1, 2)), images))
        return dict.fromkeys(outputs, np.stack(scores))


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).random((12, 3, SIDE, SIDE), np.float32)


@pytest.mark.parametrize(
    ("options", "passes", "calls"),
    [
        ({}, 12, 2),  # 8 and 4
        ({"max_batch": 5}, 12, 3),
        ({"max_batch": 1}, 12, 12),
        ({"batch": 5}, 15, 3),  # filled up
        ({"max_batch": 3, "max_concurrency": 4, "meet": 4}, 12, 4),
        ({"max_batch": 1, "max_concurrency": 4, "meet": 4}, 12, 12),
        ({"batch": 3, "max_concurrency": 4, "meet": 4}, 12, 4),
        ({"batch": 5, "max_concurrency": 4, "meet": 3}, 15, 3),
    ],
    ids=str,
)
@pytest.mark.usefixtures("hasty")
def test_all_passes_of_a_run_are_counted_in_it(
    images: np.ndarray, options: dict[str, Any], passes: int, calls: int
) -> None:
    """Whatever threads the model has inside, and in however many it is called."""
    model = Pixels(**options)
    run = model.passes.scope()
    found = model.run(images, passes=run)["scores"]
    np.testing.assert_array_equal(found, images.mean((2, 3)))  # in their order
    assert run.count == model.passes.count == PassCount(passes, 0, calls, 0)
    assert sum(model.calls) == passes
    assert len(model.threads) == options.get("meet", 1)  # so many calls at once, no more
    model.barrier = threading.Barrier(1)
    model.run(images[:1])  # of nobody's run
    assert run.count == PassCount(passes, 0, calls, 0)
    assert model.passes.forward_calls == calls + 1


@pytest.mark.parametrize("concurrency", [1, 4])
@pytest.mark.usefixtures("hasty")
def test_two_runs_at_once_do_not_see_each_others_passes(
    images: np.ndarray, concurrency: int
) -> None:
    model = Pixels(max_batch=1, max_concurrency=concurrency)
    runs = [model.passes.scope(), model.passes.scope()]
    both = threading.Barrier(2)

    def many(which: int) -> list[np.ndarray]:
        both.wait(AT_ONCE)
        mine = images[: 12 if which else 5]
        return [model.run(mine, passes=runs[which])["scores"] for _ in range(4)]

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(many, range(2)))
    assert [run.count for run in runs] == [PassCount(20, 0, 20, 0), PassCount(48, 0, 48, 0)]
    assert model.passes.count == PassCount(68, 0, 68, 0)
    for which, answers in enumerate(found):
        for answer in answers:
            np.testing.assert_array_equal(answer, images[: 12 if which else 5].mean((2, 3)))


@pytest.mark.parametrize(
    ("error", "counted"),
    [(ModelError, PassCount(4, 0, 1, 0)), (OutputError, PassCount(8, 0, 2, 0))],
)
def test_what_failed_to_run_is_no_pass_and_an_answer_of_no_use_is_one(
    images: np.ndarray, error: type[Exception], counted: PassCount
) -> None:
    class Fails(Pixels):
        def infer(self, feeds: Any, outputs: Any) -> dict[str, np.ndarray]:
            if len(self.calls) == 1:
                raise error("out of order")
            return super().infer(feeds, outputs)

    model = Fails(max_batch=4)
    run = model.passes.scope()
    with pytest.raises(error, match="out of order"):
        model.run(images, passes=run)
    assert run.count == model.passes.count == counted


def test_tasks_within_tasks_run_in_turn(images: np.ndarray) -> None:
    """So that there are never more calls at once than the model takes."""
    model = Pixels(max_batch=1, max_concurrency=2)
    lock, now, most = threading.Lock(), 0, 0
    infer = model.infer

    def watched(feeds: Any, outputs: Any) -> dict[str, np.ndarray]:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        found = infer(feeds, outputs)
        with lock:
            now -= 1
        return found

    model.infer = watched  # type: ignore[method-assign]
    run = model.passes.scope()
    found = model.map_concurrently(lambda place: model.run(images[place:], passes=run), range(6))
    assert [len(each["scores"]) for each in found] == [12, 11, 10, 9, 8, 7]
    assert 1 <= most <= 2
    assert run.count == PassCount(57, 0, 57, 0)

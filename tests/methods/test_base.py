"""Rows one after the other: each has its share of the time, its own passes, and the same draws."""

from __future__ import annotations

import math
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ibisa_onnx.gradients.masked_images import MaskedImages
from ibisa_onnx.methods.base import AttributionResult, RowByRow, no_gradient, one_by_one
from ibisa_onnx.methods.problem import Problem, Row
from ibisa_onnx.methods.stopping import DEADLINE, STOPPED, Control, StoppingRule
from ibisa_onnx.models.passes import PassCount, PassCounter
from ibisa_onnx.statements import Completion


class Clock:
    """Seconds that pass when somebody says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("time.perf_counter", clock)
    return clock


@pytest.fixture
def problem() -> Problem:
    """Four rows, of a picture each; the prediction is counted in all but the second."""
    total = PassCounter()
    shared = [total.scope(), None, total.scope(), total.scope()]
    rows = tuple(Row(SimpleNamespace(), {}, None, None, each) for each in shared)  # type: ignore[arg-type]
    for each in shared:
        if each is not None:
            each.count_forward(1)
    images = np.arange(4, dtype=np.float32).reshape(4, 1, 1, 1) * np.ones((4, 1, 2, 3), np.float32)
    blank = np.zeros((1, 1, 1), np.float32)
    masked, passes = MaskedImages(images, 0 * images), total.scope()
    model = SimpleNamespace(passes=total)
    return Problem(model, masked, rows, blank, passes)  # type: ignore[arg-type]


def result(problem: Problem, value: float = 0.5, done: int = 1) -> AttributionResult:
    cells, completion = np.full(problem.size, value, np.float32), Completion(done, 2, "steps")
    return AttributionResult(cells, problem.size, completion, no_gradient("planted"))


def run(problem: Problem, control: Control, run_one: Any) -> list[tuple[int, AttributionResult]]:
    """All that is yielded, a row at a time."""
    rounds = list(one_by_one(problem, np.random.default_rng(0), control, run_one))
    assert all(len(each) == 1 for each in rounds)
    return [pair for each in rounds for pair in each.items()]


def test_each_row_has_its_share_of_the_time_that_is_left(problem: Problem, clock: Clock) -> None:
    """What one row leaves is shared by all after it, what it takes too much is theirs as well."""
    took = [10.0, 60.0, 15.0, 7.0]
    deadlines: list[float] = []

    def run_one(one: Problem, rng: Any, control: Control) -> Iterator[AttributionResult]:
        deadlines.append(control.stopping.deadline)
        clock.now += took[len(deadlines) - 1]
        yield result(one)

    control = Control(StoppingRule(clock.now + 100))
    run(problem, control, run_one)
    # 100 / 4 from 0; (100 - 10) / 3 from 10; (100 - 70) / 2 from 70; what is left, from 85
    np.testing.assert_allclose(np.subtract(deadlines, 1000), [25, 40, 85, 100])


def test_a_row_that_is_cut_short_is_no_reason_to_cut_the_others(
    problem: Problem, clock: Clock
) -> None:
    def run_one(one: Problem, rng: Any, control: Control) -> Iterator[AttributionResult]:
        steps = 0
        while steps < 5 and not control.stopping.over(10):
            clock.now += 10 if one.image[0, 0, 0, 0] == 0 else 1
            steps += 1
        completion = Completion(steps, 5, "steps", control.stopping.reason)
        yield AttributionResult(np.zeros((2, 3), np.float32), (2, 3), completion, no_gradient("-"))

    found = run(problem, Control(StoppingRule(clock.now + 120)), run_one)
    last = dict(found)
    assert [last[row].completion.done for row in range(4)] == [3, 5, 5, 5]
    assert [last[row].completion.cut_short for row in range(4)] == [DEADLINE, None, None, None]


def test_without_a_deadline_nobody_has_one(problem: Problem, clock: Clock) -> None:
    seen: list[float] = []

    def run_one(one: Problem, rng: Any, control: Control) -> Iterator[AttributionResult]:
        seen.append(control.stopping.deadline)
        clock.now += 10
        yield result(one)

    run(problem, Control(), run_one)
    assert seen == [math.inf] * 4


def test_the_only_row_has_all_of_the_time(problem: Problem, clock: Clock) -> None:
    control = Control(StoppingRule(clock.now + 100))

    def run_one(one: Problem, rng: Any, own: Control) -> Iterator[AttributionResult]:
        assert own is control
        yield result(one)

    run(problem.take([2]), control, run_one)


def test_whoever_wants_it_to_stop_is_asked_in_every_row(problem: Problem, clock: Clock) -> None:
    asked, reasons = [], []

    def stop() -> bool:
        asked.append(True)
        return len(asked) > 2

    def run_one(one: Problem, rng: Any, control: Control) -> Iterator[AttributionResult]:
        control.stopping.over(0)
        reasons.append(control.stopping.reason)
        yield result(one)

    run(problem, Control(StoppingRule(stop=stop)), run_one)
    assert reasons == [None, None, STOPPED, STOPPED]


def test_progress_is_heard_of_in_every_row(problem: Problem) -> None:
    told: list[tuple[int, int]] = []

    def run_one(one: Problem, rng: Any, control: Control) -> Iterator[AttributionResult]:
        assert control.intermediate
        control.progress(1, 2)
        yield result(one)

    run(problem, Control(progress=lambda *each: told.append(each), intermediate=True), run_one)
    assert told == [(1, 2)] * 4


def test_the_last_result_of_a_row_is_finished(problem: Problem, clock: Clock) -> None:
    def run_one(one: Problem, rng: Any, control: Control) -> Iterator[AttributionResult]:
        yield result(one, 0.25, 1)
        yield result(one, one.image[0, 0, 0, 0], 2)

    found = run(problem, Control(), run_one)
    assert [row for row, _ in found] == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    for begin in range(0, 12, 3):
        row, results = begin // 3, [each for _, each in found[begin : begin + 3]]
        assert [each.timings is None for each in results] == [True, True, False]
        assert [each.completion.done for each in results] == [1, 2, 2]
        assert results[-1].map[0, 0] == row  # each is shown its own picture


def test_a_row_that_finds_nothing_is_left_out(problem: Problem) -> None:
    def run_one(one: Problem, rng: Any, control: Control) -> Iterator[AttributionResult]:
        if one.image[0, 0, 0, 0] != 1:
            yield result(one)

    assert {row for row, _ in run(problem, Control(), run_one)} == {0, 2, 3}


def test_times_are_of_a_row_and_the_first_has_what_came_before(
    problem: Problem, clock: Clock
) -> None:
    def run_one(one: Problem, rng: Any, control: Control) -> Iterator[AttributionResult]:
        clock.now += 2
        control.lap("look")
        clock.now += 3
        yield result(one)

    control = Control()
    clock.now += 7
    control.lap("predict")
    found = dict(run(problem, control, run_one))
    both = {"open": 0.0, "look": 2.0, "optimise": 3.0}
    assert found[0].timings == {"predict": 7.0, **both, "total": 12.0}
    for row in (1, 2, 3):
        assert found[row].timings == {**both, "total": 5.0}


def test_passes_are_a_rows_own_and_add_up(problem: Problem) -> None:
    def run_one(one: Problem, rng: Any, control: Control) -> Iterator[AttributionResult]:
        for _ in range(1 + int(one.image[0, 0, 0, 0])):
            one.passes.count_forward(3)
        yield result(one)

    found = dict(run(problem, Control(), run_one))
    own = [found[row].passes for row in range(4)]
    assert own == [
        PassCount(4, 0, 2, 0),
        PassCount(6, 0, 2, 0),  # the prediction is another row's
        PassCount(10, 0, 4, 0),
        PassCount(13, 0, 5, 0),
    ]
    assert sum(own, PassCount()) == problem.model.passes.count
    assert sum(problem.spent(), PassCount()) == problem.model.passes.count


def test_every_row_has_the_same_draws(problem: Problem) -> None:
    """So that a map does not depend on what is beside it."""
    drawn: list[float] = []

    class Draws(RowByRow):
        def run_one(
            self, problem: Problem, rng: np.random.Generator, control: Control
        ) -> Iterator[AttributionResult]:
            drawn.append(rng.random())
            yield result(problem)

    rng = np.random.default_rng(5)
    list(Draws().run(problem, rng, Control()))
    assert drawn == [np.random.default_rng(5).random()] * 4

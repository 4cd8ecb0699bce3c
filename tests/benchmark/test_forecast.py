"""The time left, on a clock that a test turns."""

from __future__ import annotations

import contextlib

from ibisa_onnx.benchmark.forecast import Forecast


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_time_left_is_that_of_each_kind_s_mean():
    clock = Clock()
    forecast = Forecast({"slow": 3, "quick": 2}, clock)
    assert forecast.seconds_left() is None
    for kind, seconds in (("slow", 50), ("quick", 2), ("slow", 70)):
        with forecast.working(kind):
            clock.now += seconds
    assert forecast.seconds_left() == 1 * 60 + 1 * 2
    forecast.drop("quick")
    assert forecast.seconds_left() == 60


def test_it_is_not_known_until_each_kind_has_been_seen():
    clock = Clock()
    forecast = Forecast({"slow": 2, "quick": 2}, clock)
    with forecast.working("quick"):
        clock.now += 1
    assert forecast.seconds_left() is None
    forecast.drop("slow")
    forecast.drop("slow")
    assert forecast.seconds_left() == 1


def test_it_falls_while_work_goes_on_but_not_below_the_rest():
    clock = Clock()
    forecast = Forecast({"slow": 3}, clock)
    with forecast.working("slow"):
        clock.now += 10
    with forecast.working("slow"):
        clock.now += 4
        assert forecast.seconds_left() == 16
        clock.now += 30
        assert forecast.seconds_left() == 10


def test_what_fails_is_done_and_tells_no_time():
    clock = Clock()
    forecast = Forecast({"slow": 3}, clock)
    with forecast.working("slow"):
        clock.now += 10
    with contextlib.suppress(OSError), forecast.working("slow"):
        clock.now += 1000
        raise OSError
    assert forecast.seconds_left() == 10


def test_nothing_due_takes_no_time():
    assert Forecast({}, Clock()).seconds_left() == 0

"""When an explanation has to end."""

from __future__ import annotations

import time

from ibisa_onnx.methods.stopping import DEADLINE, STOPPED, StoppingRule


def test_without_a_deadline_it_is_never_over() -> None:
    rule = StoppingRule()
    assert not rule.over(1e9)
    assert rule.reason is None


def test_it_is_over_where_what_is_left_would_end_late() -> None:
    rule = StoppingRule(time.perf_counter() + 100)
    assert not rule.over(50)
    assert rule.over(150)
    assert rule.reason == DEADLINE


def test_once_over_it_stays_over() -> None:
    rule = StoppingRule(time.perf_counter() + 100)
    assert rule.over(150)
    assert rule.over(0)


def test_a_wish_comes_before_a_deadline() -> None:
    rule = StoppingRule(0.0, lambda: True)
    assert rule.over(0)
    assert rule.reason == STOPPED

"""When an explanation has to end."""

from __future__ import annotations

import time

import pytest

from ibisa_onnx.errors import OptionError
from ibisa_onnx.methods.stopping import DEADLINE, STOPPED, Limit, check_deadline


def test_without_a_limit_it_is_never_over() -> None:
    limit = Limit()
    assert not limit.over(1e9)
    assert limit.reason is None


def test_it_is_over_where_what_is_left_would_end_late() -> None:
    limit = Limit(time.perf_counter() + 100)
    assert not limit.over(50)
    assert limit.over(150)
    assert limit.reason == DEADLINE


def test_once_over_it_stays_over() -> None:
    limit = Limit(time.perf_counter() + 100)
    assert limit.over(150)
    assert limit.over(0)


def test_a_wish_comes_before_a_deadline() -> None:
    limit = Limit(0.0, lambda: True)
    assert limit.over(0)
    assert limit.reason == STOPPED


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), "1"])
def test_a_deadline_is_a_number_above_zero(seconds: object) -> None:
    with pytest.raises(OptionError, match="deadline"):
        check_deadline(seconds)  # type: ignore[arg-type]


@pytest.mark.parametrize(("given", "expected"), [(None, float("inf")), (2, 2.0), (0.5, 0.5)])
def test_seconds_or_none(given: float | None, expected: float) -> None:
    assert check_deadline(given) == expected

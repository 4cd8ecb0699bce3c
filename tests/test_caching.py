"""What takes long to build is built once, and only the last few are kept."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from ibisa_onnx.caching import BuiltOnce


def test_threads_that_ask_for_one_key_share_what_is_built():
    built: list[int] = []
    begun, go_on = threading.Event(), threading.Event()
    cache: BuiltOnce[int] = BuiltOnce()

    def slow() -> int:
        built.append(1)
        begun.set()
        assert go_on.wait(10)
        return 7

    with ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(cache.get, "a", slow) for _ in range(2)]
        assert begun.wait(10)
        assert cache.get("b", lambda: 8) == 8  # another key does not wait
        go_on.set()
        assert [each.result() for each in asked] == [7, 7]
    assert len(built) == 1


def test_the_last_few_are_kept():
    cache: BuiltOnce[str] = BuiltOnce(2)
    for key in ("a", "b", "a", "c"):
        cache.get(key, lambda key=key: key)
    assert cache.values() == ["a", "c"]


def test_what_fails_is_tried_again():
    cache: BuiltOnce[int] = BuiltOnce()
    with pytest.raises(ZeroDivisionError):
        cache.get("a", lambda: 1 // 0)
    assert cache.get("a", lambda: 3) == 3

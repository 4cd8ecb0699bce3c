"""Recognises objects that cannot work any more because their process was forked.

A child has copies of its parent's locks, but none of its threads. A session of ONNX Runtime with
threads of its own, or on a device, may wait for them forever. One that computes in the caller's
thread alone works, unless another thread was using it at the moment of the fork.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

_at_work: set[object] = set()  # one entry per call, of all threads; atomic under the GIL
_generation = 0  # forks between the first process and this one
_cut_off = 0  # objects of earlier generations were at work when this process was forked


@contextmanager
def at_work() -> Iterator[None]:
    """Mark work during which a fork leaves locks behind."""
    token = object()
    _at_work.add(token)
    try:
        yield
    finally:
        _at_work.discard(token)


def generation() -> int:
    """Return a number that identifies this process among those it was forked from."""
    return _generation


def why_unusable(opened: int, *, has_threads: bool) -> str | None:
    """Return why what was opened in a generation cannot be used in this one; None if it can."""
    if opened == _generation:
        return None
    if has_threads:
        return "its threads do not survive that"
    return "another thread was using ONNX Runtime then" if opened < _cut_off else None


def _in_child() -> None:
    global _generation, _cut_off
    _generation += 1
    if _at_work:
        _cut_off = _generation
    _at_work.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)

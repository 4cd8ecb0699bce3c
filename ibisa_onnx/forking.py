"""Recognises objects that cannot work any more because their process was forked.

On the CPU, a session of ONNX Runtime survives the fork of an idle process. It does not if another
thread was at work: the child has a copy of that thread's locks, but not the thread that releases
them, so it would wait forever. A device's driver does not survive a fork at all.
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


def why_unusable(opened: int, *, on_cpu: bool) -> str | None:
    """Return why what was opened in a generation cannot be used in this one; None if it can."""
    if opened == _generation:
        return None
    if not on_cpu:
        return "its device does not survive a fork"
    return "another thread was using ONNX Runtime then" if opened < _cut_off else None


def _in_child() -> None:
    global _generation, _cut_off
    _generation += 1
    if _at_work:
        _cut_off = _generation
    _at_work.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)

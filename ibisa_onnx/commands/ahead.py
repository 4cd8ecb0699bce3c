"""Several images of one run explained at a time, and delivered in their order.

On the CPU, two explanations with one thread each take less time than one after the other with two
(`benchmarks/throughput.py`). So images are explained ahead of the one that is delivered next.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from ibisa_onnx import Explanation

Explanations: TypeAlias = "Future[list[Explanation]]"


@dataclass(frozen=True)
class Task:
    """An image of a run.

    Attributes
    ----------
    picture
        The image.
    found
        The files of its finished results, one list per target; empty if it must be explained.
    explanations
        What explains it already; None: nothing.
    """

    picture: str
    found: list[list[Path]]
    explanations: Explanations | None


def tasks(
    pictures: Iterable[str],
    find: Callable[[str], list[list[Path]]],
    submit: Callable[[str], Explanations | None],
    ahead: int,
) -> Iterator[Task]:
    """Yield all images in order; up to `ahead` of those to explain are submitted before."""
    coming: deque[Task] = deque()
    left = iter(pictures)
    while True:
        while sum(not each.found for each in coming) < ahead:
            picture = next(left, None)
            if picture is None:
                break
            found = find(picture)
            coming.append(Task(picture, found, None if found else submit(picture)))
        if not coming:
            return
        yield coming.popleft()

"""A limit of what a fuzzed graph may take: a fault is a failure then, not the machine's end."""

from __future__ import annotations

import resource
from collections.abc import Iterator

import pytest

_SPARE = 3 << 30  # bytes of addresses beyond those in use


@pytest.fixture(autouse=True, scope="module")
def _bounded() -> Iterator[None]:
    with open("/proc/self/statm") as file:  # noqa: PTH123
        used = int(file.read().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + _SPARE, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)

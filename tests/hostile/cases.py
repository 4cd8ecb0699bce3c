"""All cases: each family is a module with `make()`, named here."""

from __future__ import annotations

import functools

from hostile import (
    arrays,
    cache,
    flags,
    labels,
    metadata,
    models,
    names,
    pictures,
    saved,
    specs,
    surrogates,
    weights,
)
from hostile.case import Case

FAMILIES = (
    models,
    weights,
    pictures,
    arrays,
    metadata,
    specs,
    labels,
    flags,
    names,
    saved,
    cache,
    surrogates,
)


@functools.cache
def cases() -> tuple[Case, ...]:
    """Return all cases, in the same order every time."""
    return tuple(case for family in FAMILIES for case in family.make())


def quick() -> list[int]:
    """Return the numbers of a few cases of each family, spread over it."""
    chosen: list[int] = []
    known = cases()
    for family in dict.fromkeys(case.family for case in known):
        own = [number for number, case in enumerate(known) if case.family == family]
        chosen += own[:: max(1, len(own) // 6)]
    return chosen

"""How many examples are looked at: the same few as a test, others by `make fuzz`."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

_ASKED = os.environ.get("FUZZ_EXAMPLES", "")


def fuzzed(examples: int) -> settings:
    """Return settings: so many examples, the same in each run, unless more are asked for."""
    return settings(
        max_examples=int(_ASKED or examples),
        deadline=None,
        database=None,
        derandomize=not _ASKED,
        suppress_health_check=list(HealthCheck),
    )

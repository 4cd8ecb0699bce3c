"""The hostile cases by their criterion: a few of each family, and with `make hostile` all."""

from __future__ import annotations

import pytest

from hostile.cases import cases, quick
from hostile.runner import run_cases


def test_there_are_enough_cases():
    labels = [case.label for case in cases()]
    assert len(set(labels)) == len(labels) >= 600


@pytest.mark.parametrize("part", ["quick", pytest.param("all", marks=pytest.mark.hostile)])
def test_no_violation(part):
    numbers = quick() if part == "quick" else list(range(len(cases())))
    found = [f"{each.label}: {each.violations}" for each in run_cases(numbers) if each.violations]
    assert not found, "\n".join(found)

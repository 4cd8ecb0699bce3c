"""Checks shared by the settings of several methods."""

from __future__ import annotations

import numbers
from typing import Any

import numpy as np

from ibisa_onnx.errors import OptionError


def is_whole(value: object, least: int) -> bool:
    """Return whether a setting is an integer of at least `least`."""
    return isinstance(value, numbers.Integral) and int(value) >= least


def check_seed(seed: Any) -> None:
    """Raise `OptionError` unless a seed is a non-negative integer."""
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise OptionError(f"seed is {seed!r}; pass an integer, 0 or more")

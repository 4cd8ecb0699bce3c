"""What settings of several methods have in common."""

from __future__ import annotations

import numbers
from typing import Any

import numpy as np

from ibisa_onnx.errors import OptionError


def is_whole(value: object, least: int) -> bool:
    """Tell whether a setting is a whole number, not less than that."""
    return isinstance(value, numbers.Integral) and int(value) >= least


def check_seed(seed: Any) -> None:
    """Raise `OptionError` where a seed is no whole number, 0 or more."""
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise OptionError(f"seed is {seed!r}; give a whole number, 0 or more")

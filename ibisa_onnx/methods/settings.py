"""What settings of several methods have in common."""

from __future__ import annotations

import numbers


def is_whole(value: object, least: int) -> bool:
    """Tell whether a setting is a whole number, not less than that."""
    return isinstance(value, numbers.Integral) and int(value) >= least

"""Type checks of arguments that public functions share, so that a wrong type is an `IbisaError`."""

from __future__ import annotations

import numbers
from typing import Any

from ibisa_onnx.errors import IbisaError, OptionError
from ibisa_onnx.escaping import shortened

_LONGEST = 60  # characters of a value in an error


def check_type(
    name: str,
    value: object,
    types: type | tuple[type, ...],
    wanted: str,
    error: type[IbisaError] = OptionError,
) -> None:
    """Raise `error` if the argument `name` has none of the types; `wanted` says what to pass.

    `bool` is not accepted as a number.
    """
    known = types if isinstance(types, tuple) else (types,)
    if not isinstance(value, known) or (isinstance(value, bool) and bool not in known):
        raise error(f"{name} is {shown(value)}; pass {wanted}")


def check_flag(name: str, value: object, error: type[IbisaError] = OptionError) -> None:
    """Raise `error` if the argument `name` is not True, False, or a number that stands for one."""
    import numpy as np  # here, as the command line starts without it

    check_type(name, value, (bool, int, np.bool_), "True or False", error)


def check_count(name: str, value: object, error: type[IbisaError] = OptionError) -> int:
    """Return an integer of at least 1; raise `error` if the argument is something else."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 1:
        raise error(f"{name} is {shown(value)}; pass an integer, 1 or more")
    return int(value)


def shown(value: Any) -> str:
    """Return a value as errors quote it, or its type if it cannot be shown."""
    try:
        if hasattr(value, "dtype") and hasattr(value, "shape"):
            return f"an array, {value.dtype} {list(value.shape)}"
        return shortened(repr(value), _LONGEST)
    except Exception:  # a stranger's `__repr__`, or an integer of too many digits
        return f"of type {type(value).__name__}"

"""Saved records as data again: every field of the type that its dataclass declares.

What was saved may come back from anyone, so nothing of it is believed: a field that is missing, not
known, of another type or out of its range is named in one error. `Annotated` ranges say more than a
type alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from ibisa_onnx.io.literals import is_integer, is_number


@dataclass(frozen=True)
class Between:
    """The least and the largest value of a number."""

    low: float = 0
    high: float = math.inf


Count = Annotated[int, Between()]
"""A whole number, 0 or more."""
Amount = Annotated[float, Between()]
"""A number, 0 or more."""
Share = Annotated[float, Between(0, 1)]
"""A number, 0 to 1."""

_WORDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}


def read_fields(kind: type, values: Any, where: str, but: frozenset[str] = frozenset()) -> Any:
    """Return the fields of a dataclass by name, from what JSON has of them.

    Parameters
    ----------
    kind
        The dataclass.
    values
        Plain data, as `json` gives it.
    where
        What to call it in an error.
    but
        Fields that are not there.

    Raises
    ------
    ValueError
        A field is missing, not known, or none of its declared type and range.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"{where} is {values!r:.60}, expected a table")
    known = {each.name: each for each in fields(kind) if each.name not in but}
    unknown = sorted(values.keys() - known.keys(), key=str)
    if unknown:
        raise ValueError(f"{where} has an unknown field {unknown[0]!r:.60}")
    types = get_type_hints(kind, include_extras=True)
    found = {}
    for name, each in known.items():
        if name in values:
            found[name] = _read(types[name], values[name], f"{where}.{name}")
        elif each.default is MISSING and each.default_factory is MISSING:
            raise ValueError(f"{where} has no field {name!r}")
    return found


def _read(kind: Any, value: Any, where: str) -> Any:
    """Return a value as its type has it; ValueError where it is none of that type."""
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin is Annotated:
        return _within(inner[1], _read(inner[0], value, where), where)
    if origin in (Union, UnionType):
        if value is None and NoneType in inner:
            return None
        kinds = [each for each in inner if each is not NoneType]
        fitting = (each for each in kinds if isinstance(each, type) and type(value) is each)
        return _read(next(fitting, kinds[0]), value, where)
    if is_dataclass(kind) and isinstance(kind, type):
        return kind(**read_fields(kind, value, where))
    if origin is tuple and isinstance(value, list):
        return tuple(_read(inner[0], each, f"{where}[{i}]") for i, each in enumerate(value))
    if origin is dict and isinstance(value, dict):
        return {key: _read(inner[1], each, f"{where}.{key:.60}") for key, each in value.items()}
    return _plain(kind, value, where)


def _plain(kind: Any, value: Any, where: str) -> Any:
    if kind is float and is_number(value):
        return float(value)
    if (kind is int and is_integer(value)) or (kind in (str, bool) and isinstance(value, kind)):
        return value
    expected = _WORDS.get(kind, "a list" if get_origin(kind) is tuple else "a table")
    raise ValueError(f"{where} is {value!r:.60}, expected {expected}")


def _within(range: Between, value: Any, where: str) -> Any:
    if not range.low <= value <= range.high:
        most = "or more" if math.isinf(range.high) else f"to {range.high:g}"
        ends = f"{range.low:g} {most}"
        raise ValueError(f"{where} is {value}, expected {ends}")
    return value

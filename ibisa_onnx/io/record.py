"""Saved records read back: each field is checked against the type its dataclass declares.

A saved record may come from anyone. A field that is missing, unknown, of the wrong type or out of
range raises an error that names it. `Annotated` adds a range to a type.
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
    """The smallest and largest allowed value of a number."""

    low: float = 0
    high: float = math.inf


Count = Annotated[int, Between()]
"""An integer, 0 or more."""
Amount = Annotated[float, Between()]
"""A number, 0 or more."""
Share = Annotated[float, Between(0, 1)]
"""A number, 0 to 1."""

_WORDS = {int: "an integer", float: "a number", str: "a string", bool: "true or false"}
_JSON_TYPES = {int: "integer", float: "number", str: "string", bool: "boolean", NoneType: "null"}


def read_fields(kind: type, values: Any, where: str, but: frozenset[str] = frozenset()) -> Any:
    """Return the fields of a dataclass by name, from parsed JSON.

    Parameters
    ----------
    kind
        The dataclass.
    values
        Parsed JSON.
    where
        Name of the record in error messages.
    but
        Fields that are stored elsewhere.

    Returns
    -------
    dict
        Values by field name.

    Raises
    ------
    ValueError
        A field is missing, unknown, or not of its declared type and range.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"{where} is {values!r:.60}, expected an object")
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
            raise ValueError(f"{where} is missing field {name!r}")
    return found


def _read(kind: Any, value: Any, where: str) -> Any:
    """Return a value converted to its declared type; raise ValueError if it does not match."""
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
    expected = _WORDS.get(kind, "a list" if get_origin(kind) is tuple else "an object")
    raise ValueError(f"{where} is {value!r:.60}, expected {expected}")


def _within(range: Between, value: Any, where: str) -> Any:
    if not range.low <= value <= range.high:
        most = "or more" if math.isinf(range.high) else f"to {range.high:g}"
        ends = f"{range.low:g} {most}"
        raise ValueError(f"{where} is {value}, expected {ends}")
    return value


def schema_of(kind: type, but: frozenset[str] = frozenset()) -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a dataclass's saved fields, less those in `but`."""
    types = get_type_hints(kind, include_extras=True)
    known = [each for each in fields(kind) if each.name not in but]
    required = [
        each.name for each in known if each.default is MISSING and each.default_factory is MISSING
    ]
    return {
        "type": "object",
        "properties": {each.name: _schema(types[each.name]) for each in known},
        "required": required,
        "additionalProperties": False,
    }


def _schema(kind: Any) -> dict[str, Any]:
    """Return the JSON Schema of a field's type."""
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Any:
        return {}
    if origin is Annotated:
        limits = {"minimum": inner[1].low, "maximum": inner[1].high}
        finite = {name: value for name, value in limits.items() if math.isfinite(value)}
        return _schema(inner[0]) | finite
    if origin in (Union, UnionType):
        return {"anyOf": [_schema(each) for each in inner]}
    if is_dataclass(kind) and isinstance(kind, type):
        return schema_of(kind)
    if origin is tuple:
        return {"type": "array", "items": _schema(inner[0])}
    if origin is dict:
        return {"type": "object", "additionalProperties": _schema(inner[1])}
    return {"type": _JSON_TYPES[kind]}

"""Parses untrusted JSON, Python literals and numbers robustly.

Python's own parsers raise half a dozen exceptions on such text, and accept numbers and nesting that
break later code. The meaning of the values is checked elsewhere.
"""

from __future__ import annotations

import ast
import csv
import json
import math
import re
import tomllib
from typing import Any, TypeGuard

_DEEPEST = 64  # ten times what people write
_LONGEST_NUMBER = 300  # digits; longer integers exceed float64
_LONGEST_LITERAL = 1 << 20  # characters: Python allocates hundreds of bytes for each
_LONGEST_TOML, _MOST_DOTS = 1 << 17, 200
_MOST = 10**_LONGEST_NUMBER
_NESTS = (dict, list, tuple, set)
_TOO_DEEP = f"it is nested more than {_DEEPEST} deep"
_BACKSLASH = re.compile(r"\\(.)", re.DOTALL)
_ESCAPES = frozenset("\\'\"abfnrtvxuUN01234567\n")
"""Valid escapes after a backslash; Python warns on the terminal about others."""
_HALF = re.compile("[\ud800-\udfff]")
_MAY_HALVE = re.compile(r"\\[uU]|[\ud800-\udfff]")
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")


def parse_json(text: str) -> Any:
    """Parse JSON, including NaN and Infinity.

    Raises
    ------
    ValueError
        It is not JSON, is nested more than 64 levels deep, or contains an integer of more than 300
        digits or a lone surrogate; the message is one line.
    """
    try:
        value = json.loads(text, parse_int=_integer)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    return _checked(value, text)


def parse_literal(text: str) -> Any:
    """Parse JSON or a Python literal; return None if it is neither, or exceeds the limits."""
    try:
        return parse_json(text)
    except ValueError:
        pass
    if len(text) > _LONGEST_LITERAL or any(
        found[1] not in _ESCAPES for found in _BACKSLASH.finditer(text)
    ):
        return None
    try:
        value = ast.literal_eval(text.strip())
        _check_depth(value)
        _check_leaves(value)  # integers may be hexadecimal, of any length
        return value
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return None  # TypeError: a list as a key; MemoryError: nested operators


def parse_toml(text: str) -> Any:
    """Parse TOML; raise a one-line ValueError if it is invalid, or as `parse_json`."""
    if len(text) > _LONGEST_TOML:
        raise ValueError(f"it has {len(text):,} characters, more than {_LONGEST_TOML:,}")
    # The memory for a dotted key grows with the square of its length.
    if max(line.count(".") for line in text.split("\n")) > _MOST_DOTS:
        raise ValueError(f"a line has more than {_MOST_DOTS} dots")
    try:
        value = tomllib.loads(text)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    _check_depth(value)
    _check_leaves(value)
    return value


def parse_csv(text: str) -> list[list[str]]:
    """Parse rows of cells; raise ValueError for an unterminated quote or a very long cell."""
    try:
        return list(csv.reader(text.splitlines()))
    except csv.Error as error:
        raise ValueError(str(error)) from error


def parse_integer(text: str) -> int | None:
    """Parse an integer of up to 18 ASCII digits, optionally signed; return None otherwise."""
    word = text.strip()
    return int(word) if _INTEGER.fullmatch(word) else None


def parse_number(text: str) -> float | None:
    """Parse a finite number; return None otherwise."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def is_integer(value: Any) -> TypeGuard[int]:
    """Return whether a parsed value is an integer, and not a boolean."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> TypeGuard[float]:
    """Return whether a parsed value is a finite number, and not a boolean."""
    return (isinstance(value, float) and math.isfinite(value)) or is_integer(value)


def _integer(text: str) -> int:
    if len(text) > _LONGEST_NUMBER:
        raise ValueError(f"it contains an integer of {len(text):,} digits")
    return int(text)


def _checked(value: Any, text: str) -> Any:
    """Return a JSON value; raise ValueError if it is nested too deep or has a lone surrogate."""
    _check_depth(value)
    if _MAY_HALVE.search(text):
        _check_leaves(value)
    return value


def _check_depth(value: Any) -> None:
    """Raise ValueError if tables and lists are nested too deep for recursive code."""
    layer = [value]
    for _ in range(_DEEPEST):
        layer = [each for outer in layer for each in _inside(outer) if isinstance(each, _NESTS)]
        if not layer:
            return
    raise ValueError(_TOO_DEEP)


def _inside(value: Any) -> Any:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, _NESTS) else ()


def _check_leaves(value: Any) -> None:
    """Raise ValueError if a value contains a lone surrogate, or an integer beyond float64."""
    if isinstance(value, str) and _HALF.search(value):
        raise ValueError("it contains a lone surrogate (\\ud800 to \\udfff)")
    if isinstance(value, int) and abs(value) >= _MOST:
        raise ValueError(f"it contains an integer of {value.bit_length():,} bits")
    for each in _inside(value):
        _check_leaves(each)
    for each in value if isinstance(value, dict) else ():
        _check_leaves(each)

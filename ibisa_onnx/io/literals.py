"""JSON, Python literals and numbers in text that anyone may have written, read without surprises.

Python's own parsers raise half a dozen exceptions on such text, and take numbers and nestings that
break whoever reads them next. What the values mean is checked there.
"""

from __future__ import annotations

import ast
import csv
import json
import math
import re
import tomllib
from typing import Any, TypeGuard

_DEEPEST = 64  # of what people write, a tenth of this
_LONGEST_NUMBER = 300  # digits; with more, an integer is no float
_LONGEST_LITERAL = 1 << 20  # characters: Python makes hundreds of bytes of each
_LONGEST_TOML, _MOST_DOTS = 1 << 17, 200
_MOST = 10**_LONGEST_NUMBER
_NESTS = (dict, list, tuple, set)
_TOO_DEEP = f"it is nested more than {_DEEPEST} deep"
_BACKSLASH = re.compile(r"\\(.)", re.DOTALL)
_ESCAPES = frozenset("\\'\"abfnrtvxuUN01234567\n")
"""What may stand behind a backslash; of others Python warns on the terminal."""
_HALF = re.compile("[\ud800-\udfff]")
_MAY_HALVE = re.compile(r"\\[uU]|[\ud800-\udfff]")
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")


def parse_json(text: str) -> Any:
    """Read JSON, NaN and Infinity included.

    Raises
    ------
    ValueError
        It is not JSON, is nested more than 64 deep, or holds an integer of more than 300 digits or
        half a character (a lone surrogate); the message says which, in one line.
    """
    try:
        value = json.loads(text, parse_int=_integer)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    return _checked(value, text)


def parse_literal(text: str) -> Any:
    """Read JSON or a Python literal, None where it is neither, or more than `parse_json` takes."""
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
        _check_leaves(value)  # whose integers may be hexadecimal, and of any length
        return value
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return None  # TypeError: a list as a key; MemoryError: of nested operators


def parse_toml(text: str) -> Any:
    """Read TOML; ValueError, in one line, where it is none, or as of `parse_json`."""
    if len(text) > _LONGEST_TOML:
        raise ValueError(f"it has {len(text):,} characters, more than {_LONGEST_TOML:,}")
    # A dotted key takes memory by the square of its length.
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
    """Read rows of cells; ValueError where a quotation never ends, or a cell is very long."""
    try:
        return list(csv.reader(text.splitlines()))
    except csv.Error as error:
        raise ValueError(str(error)) from error


def parse_integer(text: str) -> int | None:
    """Read a whole number of up to 18 ASCII digits, with or without a sign; None of other text."""
    word = text.strip()
    return int(word) if _INTEGER.fullmatch(word) else None


def parse_number(text: str) -> float | None:
    """Read a finite number; None of other text."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def is_integer(value: Any) -> TypeGuard[int]:
    """Tell whether a parsed value is a whole number, and neither true nor false."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> TypeGuard[float]:
    """Tell whether a parsed value is a finite number, and neither true nor false."""
    return (isinstance(value, float) and math.isfinite(value)) or is_integer(value)


def _integer(text: str) -> int:
    if len(text) > _LONGEST_NUMBER:
        raise ValueError(f"it holds an integer of {len(text):,} digits")
    return int(text)


def _checked(value: Any, text: str) -> Any:
    """Return a JSON value; ValueError where it is nested too deep, or holds half a character."""
    _check_depth(value)
    if _MAY_HALVE.search(text):
        _check_leaves(value)
    return value


def _check_depth(value: Any) -> None:
    """Raise ValueError where tables and lists are nested too deep for who recurses into them."""
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
    """Raise ValueError where a value holds half a character, or an integer that no float holds."""
    if isinstance(value, str) and _HALF.search(value):
        raise ValueError("it holds half a character (a lone surrogate, \\ud800 to \\udfff)")
    if isinstance(value, int) and abs(value) >= _MOST:
        raise ValueError(f"it holds an integer of {value.bit_length():,} bits")
    for each in _inside(value):
        _check_leaves(each)
    for each in value if isinstance(value, dict) else ():
        _check_leaves(each)

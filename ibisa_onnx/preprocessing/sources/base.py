"""One source of preprocessing settings: some fields of the spec, and where they come from.

Parses the project's own notation, which spec files and metadata share. The precedence of sources
is in `resolve.py`.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from ibisa_onnx.errors import PreprocessingError
from ibisa_onnx.io.literals import is_integer, is_number
from ibisa_onnx.models.signature import IMAGE_DTYPES, Layout
from ibisa_onnx.preprocessing.resampling import KERNELS
from ibisa_onnx.preprocessing.spec import CHANNEL_ORDERS, DEPTHS, MOST_SIDE, PRESETS, RESIZES


@dataclass(frozen=True)
class Layer:
    """The settings of one source.

    Attributes
    ----------
    source
        Name of the source, for messages.
    fields
        Fields of `Preprocessing` by name.
    preset
        One of `PRESETS`, for fields that `fields` does not have.
    warnings
        What was ignored, and how our settings differ from the source's.
    guessed
        Fields that the source marks as assumed; any other source takes precedence over them.
    """

    source: str
    fields: Mapping[str, Any]
    preset: str | None = None
    warnings: tuple[str, ...] = ()
    guessed: frozenset[str] = frozenset()


def parse_layer(source: str, values: Mapping[str, Any]) -> Layer:
    """Parse the project's own notation: the fields of `Preprocessing`, `preset` and `guessed`.

    Raises
    ------
    PreprocessingError
        A key is unknown, or a value has the wrong type.
    """
    fields = {key: _parse(source, key, value) for key, value in values.items()}
    preset = fields.pop("preset", None)
    guessed = frozenset(fields.pop("guessed", ()))
    return Layer(source, fields, preset, guessed=guessed)


def check_preset(name: str) -> str:
    """Return a preset's name in lower case; raise an error that lists the presets if unknown."""
    if name.lower() not in PRESETS:
        raise PreprocessingError(
            f"unknown preprocessing preset {name!r:.80}; choose from: {', '.join(PRESETS)}"
        )
    return name.lower()


def _numbers(value: Any) -> tuple[float, ...]:
    """Read one number, or a list of them."""
    numbers = value if isinstance(value, list | tuple) else [value]
    if not numbers:
        raise TypeError("a number, or one per channel")
    return tuple(map(_number, numbers))


def _number(value: Any) -> float:
    if not is_number(value) or abs(value) > sys.float_info.max:  # an integer may be larger
        raise TypeError("a number")
    return float(value)


def _whole(value: Any) -> int:
    if not is_integer(value):
        raise TypeError("an integer")
    return value


def _side(value: Any) -> int:
    if not 1 <= _whole(value) <= MOST_SIDE:
        raise TypeError(f"an integer, 1 to {MOST_SIDE}")
    return _whole(value)


def _size(value: Any) -> tuple[int, int]:
    """Read height and width, or one number for both."""
    sides = value if isinstance(value, list | tuple) else [value, value]
    if len(sides) != 2:
        raise TypeError("[height, width]")
    return _side(sides[0]), _side(sides[1])


def _word(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("a string")
    return value


def _names(value: Any) -> tuple[str, ...]:
    """Parse a list of field names."""
    if not isinstance(value, list | tuple):
        raise TypeError("a list of field names")
    return tuple(_word(each) for each in value)


def _one_of(choices: Collection[str], spell: Callable[[str], str]) -> Callable[[Any], str]:
    """Return a parser for one of several words, in any case."""
    listed = ", ".join(sorted(choices))

    def parse(value: Any) -> str:
        word = spell(_word(value))
        if word not in choices:
            raise TypeError(f"one of {listed}")
        return word

    return parse


_PARSERS: Mapping[str, Callable[[Any], Any]] = MappingProxyType(
    {
        "preset": lambda value: check_preset(_word(value)),
        "size": _size,
        "resize": _one_of(RESIZES, str.lower),
        "shorter_side": _side,
        "interpolation": _one_of(KERNELS, str.lower),
        "channel_order": _one_of(CHANNEL_ORDERS, str.upper),
        "scale": _number,
        "mean": _numbers,
        "std": _numbers,
        "layout": _one_of(tuple(Layout), str.upper),
        "dtype": _one_of(IMAGE_DTYPES, str.lower),
        "channels": _whole,
        "depth": _one_of(DEPTHS, str.lower),
        "pad_value": _whole,
        "guessed": _names,
    }
)


def _parse(source: str, key: str, value: Any) -> Any:
    """Parse one value; raise an error that names source and key."""
    if key not in _PARSERS:
        near = difflib.get_close_matches(key[:40], _PARSERS, 1) or [", ".join(_PARSERS)]
        raise PreprocessingError(f"{source}: unknown key {key!r:.80}; did you mean {near[0]}?")
    try:
        return _PARSERS[key](value)
    except TypeError as error:
        raise PreprocessingError(f"{source}: {key} is {value!r:.200}, expected {error}") from None

"""Targets as text or JSON, as requests to a server carry them.

A class is spelled as on the command line: 207, "golden retriever", "top:1". All other targets are a
JSON object whose keys are the command line's flags. Nothing here reads a file, so a request cannot
name one of the server's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ibisa_onnx.checks import shown
from ibisa_onnx.errors import TargetError
from ibisa_onnx.io.literals import is_integer, is_number, parse_integer, parse_json
from ibisa_onnx.targets.arguments import PointTarget
from ibisa_onnx.targets.base import TargetSpec
from ibisa_onnx.targets.classification import count
from ibisa_onnx.targets.contrast import ContrastTarget
from ibisa_onnx.targets.detection import BoxTarget
from ibisa_onnx.targets.segmentation import RegionTarget
from ibisa_onnx.targets.sequence import TextTarget
from ibisa_onnx.targets.value import ValueTarget

Word = str | int | None
_DIRECTIONS = ("raise", "lower", "keep")
_VALUE = ("output", "index", "reduce", "at")
_KEYS: Mapping[str, tuple[str, ...]] = {
    "box": ("confidence", "versus"),
    "region": ("target", "versus"),
    "text": ("versus",),
    "char": ("versus",),
    **dict.fromkeys(_DIRECTIONS, _VALUE),
    "at": ("target", "confidence", "versus"),
    "confidence": ("target", "versus"),
    "target": ("versus",),
    "versus": (),
}
"""Keys that name a target, in order of precedence, and the keys each may be combined with."""
_CALLS = {
    "BoxTarget(3)": '{"box": 3}',
    "BoxTarget(every=True), ": "",  # one target a request
    "ContrastTarget(CLASS, CLASS)": '{"target": CLASS, "versus": CLASS}',
    "PointTarget((120, 20))": '{"at": [120, 20]}',
    "PointTarget((120, 80))": '{"at": [120, 80]}',
    "RegionTarget(region=MASK)": '{"region": [LEFT, TOP, RIGHT, BOTTOM]}',
    "TextTarget()": '{"text": true}',
    "TextTarget(3)": '{"char": 3}',
    'ValueTarget("raise", NAME, "0,:")': '{"raise": true, "output": NAME, "index": "0,:"}',
    **{f'ValueTarget("{each}")': f'{{"{each}": true}}' for each in _DIRECTIONS},
    "target='top:3'": "top:1",
    "target=": "",
    "labels=FILE, or ": "",  # labels are the server's
}
"""Python notation in the library's messages, and what a request passes instead."""


def with_keys(text: str) -> str:
    """Replace Python notation in a message by what a request passes."""
    text = text.replace("deadline=", "deadline_ms")
    for call, keys in _CALLS.items():
        text = text.replace(call, keys)
    return text


def parse_target(given: Any) -> Any:
    """Return the target that a request names, as `Explainer.explain` accepts it.

    Parameters
    ----------
    given
        None for the predicted class; a class index; text: a class index, a label, "top:1", or a
        JSON object; or the object itself, such as `{"box": 2}` or `{"at": [120, 80]}`.

    Raises
    ------
    TargetError
        It is none of these, or names several predictions.
    """
    if isinstance(given, bytes):
        try:
            given = given.decode()
        except UnicodeDecodeError:
            raise TargetError(f"target is {shown(given)}; pass UTF-8 text") from None
    if isinstance(given, str):
        text = given.strip()
        given = _object(text) if text.startswith("{") else _word(text)
    if isinstance(given, Mapping):
        return _spec(dict(given))
    if given is not None and not isinstance(given, str) and not is_integer(given):
        raise TargetError(f"target is {shown(given)}; pass a class index, a label or an object")
    return _one(given)


def _object(text: str) -> Any:
    try:
        return parse_json(text)
    except ValueError as error:
        raise TargetError(f"target is not valid JSON: {error}") from None


def _word(text: str) -> Word:
    index = parse_integer(text)
    return (text or None) if index is None else index


def _one(word: Any) -> Any:
    """Return a word; `TargetError` if it stands for several classes."""
    if count(word) > 1:
        raise TargetError(f"target {word!r} stands for several classes; send one request for each")
    return word


def _spec(given: dict[str, Any]) -> TargetSpec | Word:
    """Return the target of an object of flags."""
    name = next((key for key in _KEYS if key in given), None)
    if name is None:
        raise TargetError(f"target has none of the keys {', '.join(_KEYS)}; pass one of them")
    unknown = [key for key in given if key not in (name, *_KEYS[name])]
    if unknown:
        more = f", which accepts {', '.join(_KEYS[name])}" if _KEYS[name] else ""
        raise TargetError(f"target: {unknown[0]!r} cannot be combined with {name!r}{more}")
    found: Any = _MAKERS.get(name, _of_class)(given)
    if "versus" in given:
        return ContrastTarget(found, _class(given, "versus"))
    return found  # type: ignore[no-any-return]


def _class(given: Mapping[str, Any], key: str = "target") -> Word:
    """Return a class by index or label; None if there is none."""
    value = given.get(key)
    if value is not None and not isinstance(value, str) and not is_integer(value):
        raise TargetError(f"target: {key} is {shown(value)}; pass a class index or a label")
    word = _one(_word(value.strip()) if isinstance(value, str) else value)
    return word  # type: ignore[no-any-return]


def _numbers(given: Mapping[str, Any], key: str, wanted: str) -> Any:
    """Return a list of finite numbers as a tuple, as many as `wanted` names; None if absent."""
    value = given.get(key)
    if value is None:
        return None
    whole = isinstance(value, list | tuple) and len(value) == wanted.count(",") + 1
    if not whole or not all(map(is_number, value)):
        raise TargetError(f"target: {key} is {shown(value)}; pass [{wanted}]")
    return tuple(float(each) for each in value)


def _flag(given: Mapping[str, Any], key: str) -> None:
    if given[key] is not True:
        raise TargetError(f"target: {key} is {shown(given[key])}; pass true")


def _box(given: Mapping[str, Any], **more: Any) -> BoxTarget:
    if (confidence := given.get("confidence")) is not None:
        if not is_number(confidence):
            raise TargetError(f"target: confidence is {shown(confidence)}; pass a number, 0 to 1")
        more["confidence"] = float(confidence)
    return BoxTarget(**more)


def _numbered(given: Mapping[str, Any], key: str) -> int:
    if not is_integer(value := given[key]):
        raise TargetError(f"target: {key} is {shown(value)}; pass its number, from 1")
    return value


def _of_class(given: Mapping[str, Any]) -> Any:
    return _class(given)


def _at(given: Mapping[str, Any]) -> TargetSpec:
    at, word = _numbers(given, "at", "X, Y"), _class(given)
    return _box(given, at=at, label=word) if "confidence" in given else PointTarget(at, word)


def _text(given: Mapping[str, Any]) -> TargetSpec:
    _flag(given, "text")
    return TextTarget()


def _value(direction: str) -> Callable[[Mapping[str, Any]], TargetSpec]:
    def make(given: Mapping[str, Any]) -> TargetSpec:
        _flag(given, direction)
        output, index, reduce = (given.get(key) for key in ("output", "index", "reduce"))
        for key, value in (("output", output), ("reduce", reduce)):
            if value is not None and not isinstance(value, str):
                raise TargetError(f"target: {key} is {shown(value)}; pass a name")
        if index is not None and not isinstance(index, str) and not is_integer(index):
            raise TargetError(f'target: index is {shown(index)}; pass text such as "0,:,5"')
        return ValueTarget(direction, output, index, reduce, at=_numbers(given, "at", "X, Y"))

    return make


_MAKERS: Mapping[str, Callable[[Mapping[str, Any]], Any]] = {
    "box": lambda given: _box(given, number=_numbered(given, "box")),
    "region": lambda given: RegionTarget(
        _class(given), region=_numbers(given, "region", "LEFT, TOP, RIGHT, BOTTOM")
    ),
    "text": _text,
    "char": lambda given: TextTarget(_numbered(given, "char")),
    "at": _at,
    "confidence": lambda given: _box(given, label=_class(given)),
    **{direction: _value(direction) for direction in _DIRECTIONS},
}

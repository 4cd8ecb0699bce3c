"""Changes of a protobuf message that keep its structure: fields, not bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import Message

from ibisa_onnx.autodiff.rules import RULES

CORPUS = sorted((Path(__file__).parent / "corpus").glob("*.txt"))
_NUMBERS = (0, 1, -1, 2, -2, 7, 99, 2**31 - 1, -(2**31))
_LARGE = (2**40, 2**63 - 1, -(2**63))
_FLOATS = (0.0, -1.0, 1e38, float("inf"), float("nan"))
_TEXTS = ("", "a" * 300, "\x1b[2J\n", "image", "é\u202e")
_OPERATORS = sorted(name for (_, name), _ in RULES)


def read(path: Path) -> onnx.ModelProto:
    """Read a model of the corpus; what is declared and not made is a weight, and gets values."""
    model = onnx.parser.parse_model(path.read_text())
    known = {tensor.name for tensor in model.graph.initializer}
    for value in model.graph.value_info:
        if value.name not in known:
            kind = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
            shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
            values = (np.arange(np.prod(shape)) * 7 % 11 - 5).reshape(shape)
            values = values / 10 if kind.kind == "f" else values
            tensor = onnx.numpy_helper.from_array(values.astype(kind), value.name)
            model.graph.initializer.append(tensor)
    del model.graph.value_info[:]
    return model


def mutate(model: onnx.ModelProto, random: Random, most: int = 4) -> None:
    """Change up to `most` fields of a model, in place."""
    for _ in range(random.randint(1, most)):
        places = list(_places(model))
        if not places:
            return
        message, field = random.choice(places)
        repeated = field.is_repeated
        try:
            (_change_list if repeated else _change)(message, field, random, places)
        except (TypeError, ValueError):  # what does not fit into the field: no change
            continue


def _places(message: Message) -> Iterator[tuple[Message, Any]]:
    """Yield every field that is set, of a message and of those inside."""
    for field, value in message.ListFields():
        yield message, field
        if field.message_type is not None:
            for inner in value if field.is_repeated else [value]:
                yield from _places(inner)


def _change(message: Message, field: Any, random: Random, places: list[Any]) -> None:
    if field.message_type is not None or random.random() < 0.1:
        message.ClearField(field.name)
    else:
        setattr(message, field.name, _value(field, getattr(message, field.name), random, places))


def _change_list(message: Message, field: Any, random: Random, places: list[Any]) -> None:
    values = getattr(message, field.name)
    at = random.randrange(len(values))
    ways: list[Callable[[], object]] = [
        lambda: values.pop(at),
        lambda: values.append(values[at]),
        lambda: values.insert(0, values.pop(at)),
    ]
    if field.message_type is None:
        ways.append(lambda: values.__setitem__(at, _value(field, values[at], random, places)))
        ways.append(lambda: values.append(_value(field, values[at], random, places)))
    random.choice(ways)()


def _value(field: Any, now: Any, random: Random, places: list[Any]) -> Any:
    """Return another value for a field: an odd one, or that of another field of the same name."""
    if field.name == "op_type" and random.random() < 0.7:
        return random.choice(_OPERATORS)
    if random.random() < 0.5:
        others = [m for m, f in places if f.name == field.name and f.is_repeated]
        alike = [v for m in others for v in getattr(m, field.name)] if field.is_repeated else []
        alike = alike or [getattr(m, f.name) for m, f in places if f.name == field.name]
        alike = [each for each in alike if isinstance(each, type(now))]
        if alike:
            return random.choice(alike)
    if isinstance(now, bytes):
        return random.choice((b"", now[: len(now) // 2], now + b"\xff", b"\xff\xfe"))
    if isinstance(now, str):
        return random.choice(_TEXTS)
    if isinstance(now, float):
        return random.choice(_FLOATS)
    return random.choice(_NUMBERS + (_LARGE if field.cpp_type == field.CPPTYPE_INT64 else ()))

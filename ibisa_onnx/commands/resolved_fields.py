"""Text and data of a model's inferred settings: preprocessing and labels, with their sources."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ibisa_onnx.commands.console import Line, heading, rows
from ibisa_onnx.commands.flags import with_flags

if TYPE_CHECKING:
    from ibisa_onnx.preprocessing.resolve import ResolvedField
    from ibisa_onnx.targets.labels import KnownLabels

_SHOWN_LABELS = 3


def sections_text(title: str, sections: Mapping[str, Sequence[Line]]) -> list[Line]:
    """Return lines with a title and a heading for each section."""
    lines: list[Line] = [heading(title)]
    for name, body in sections.items():
        lines += ["", heading(name), *body]
    return lines


def field_rows(fields: Sequence[ResolvedField]) -> list[Line]:
    """Return a row for each preprocessing setting: its value and its source."""
    texts = [
        (each.field.replace("_", " "), _value_text(each.value), with_flags(each.source))
        for each in fields
    ]
    wide = max(len(value) for _, value, _ in texts)
    return rows([(name, f"{value:{wide}}  {source}") for name, value, source in texts])


def fields_data(fields: Sequence[ResolvedField]) -> list[dict[str, Any]]:
    """Return the fields as plain data."""
    return [{**asdict(each), "source": with_flags(each.source)} for each in fields]


def label_rows(known: KnownLabels | None) -> list[Line]:
    """Return the number of labels, the first of them, and their source."""
    if known is None:
        return ["  unknown"]
    count = len(known.labels)
    more = " …" if count > _SHOWN_LABELS else ""
    first = "; ".join(known.labels[:_SHOWN_LABELS])
    return rows(
        [(f"{count} {'name' if count == 1 else 'names'}", first + more), ("", known.source)]
    )


def labels_data(known: KnownLabels | None) -> dict[str, Any] | None:
    """Return the labels as plain data."""
    return None if known is None else {"count": len(known.labels), "source": known.source}


def _value_text(value: Any) -> str:
    """Return a value as text: 0.00392157, 103.53 116.28 123.675, 224 x 224."""
    if isinstance(value, tuple | list):
        between = " x " if all(isinstance(each, int) for each in value) else " "
        return between.join(_value_text(each) for each in value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)

"""What was measured: a row for each case, kept in a file of its own, and the tables of all."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ibisa_onnx as ibisa


@dataclass(frozen=True)
class Row:
    """A line of the table, as it is kept.

    Attributes
    ----------
    family, package, command
        As of its `Case`; of an exported file the family that was found, and neither of the others.
    model
        The file.
    kind
        What kind of model it was found to be, and by what.
    answers
        How many answers it gives for the picture.
    passes, gradient
        What the map cost, and where its gradient is from; "": there is no map.
    where
        Where the maps fall; of an exported file what went wrong.
    seconds
        That it all took.
    """

    family: str = ""
    model: str = ""
    package: str = ""
    command: str = ""
    kind: str = ""
    answers: int = 0
    passes: str = ""
    gradient: str = ""
    where: str = ""
    seconds: float = 0.0


def kind_of(explainer: ibisa.Explainer) -> str:
    """Return what kind of model it was found to be, and the reason where there is one."""
    kind = explainer.kind
    return f"{kind.name}: {kind.reason}" if kind.reason else kind.name


def told_by(explanation: ibisa.Explanation) -> dict[str, Any]:
    """Return the fields of a row that an explanation tells."""
    passes = explanation.passes
    return {
        "passes": f"{passes.forward} + {passes.backward}",
        "gradient": explanation.certificate.gradient,
    }


def keep(path: Path, row: Row) -> None:
    """Write a row down."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(row), indent=1, ensure_ascii=False) + "\n", encoding="utf8")


def kept(folder: Path, names: Iterable[str]) -> list[Row]:
    """Return the rows that were written down, in the order of their names."""
    paths = [folder / f"{name}.json" for name in names]
    return [Row(**json.loads(each.read_text(encoding="utf8"))) for each in paths if each.exists()]


def table(answers: Sequence[Row], planted: Sequence[Row], exported: Sequence[Row]) -> str:
    """Return the tables, in Markdown."""
    told = ("kind", "predictions", "passes", "gradient")
    head = ("format or kind", "file", "command", *told, "where the map falls")
    lines = _table(head, map(_answer, answers))
    if planted:
        head = ("planted, as", *told, "where the map falls")
        lines += ["", *_table(head, map(_planted, planted))]
    if exported:
        lines += ["", *_table(("exported, random weights", *told), map(_exported, exported))]
    return "\n".join(lines)


def _answer(row: Row) -> list[str]:
    file = f"`{row.model}`" + (f" of {row.package}" if row.package else "")
    cells = [row.family, file, f"`{row.command}`", _kind(row), str(row.answers), row.passes]
    return [*cells, row.gradient, row.where]


def _planted(row: Row) -> list[str]:
    kind = ", ".join((_kind(row), row.family))
    return [row.model, kind, str(row.answers), row.passes, row.gradient, row.where]


def _exported(row: Row) -> list[str]:
    kind = ", ".join(filter(None, (_kind(row), row.family)))
    gradient = "; ".join(filter(None, (row.gradient, row.where)))
    return [f"`{row.model}`", kind, str(row.answers), row.passes, gradient]


def _kind(row: Row) -> str:
    """Return what kind of model it was found to be, without the reason."""
    return row.kind.partition(":")[0]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [_line(head), "|" + "---|" * len(head), *map(_line, rows)]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(each.replace('|', chr(92) + '|') for each in cells)} |"

"""The names of the classes: read from a file or the model's metadata, found by name."""

from __future__ import annotations

import csv
import difflib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ibisa_onnx.errors import PreprocessingError, TargetError
from ibisa_onnx.model.metadata import parse_literal, read_ibisa

_MOST_CLASSES = 1_000_000


def read_labels(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Read the names of the classes, in index order.

    Parameters
    ----------
    path
        A text file with one name a line, a JSON file with a list or a table from index to name
        (also under `id2label`, as in Hugging Face's `config.json`), or a CSV file of index and
        name. UTF-8. An index that is left out becomes "class 7".

    Raises
    ------
    TargetError
        The file cannot be read or holds no labels.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise TargetError(f"cannot read labels {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise TargetError(f"labels {path} are not UTF-8 text; save them so") from error
    readers = {".json": _from_json, ".csv": _from_csv}
    labels = readers.get(path.suffix.lower(), _from_lines)(text)
    if not labels:
        raise TargetError(f"{path} holds no labels; give one name a line, JSON, or CSV index,name")
    return labels


def labels_from_metadata(metadata: Mapping[str, str]) -> tuple[str, ...] | None:
    """Return the names of the classes in a model's metadata (`ibisa`, or Ultralytics' `names`).

    None where there are none, or none that can be read.
    """
    try:
        content = read_ibisa(metadata)
    except PreprocessingError:
        content = {}  # resolving the preprocessing warns of it
    labels = _as_labels(content.get("labels"))
    if labels is None and "names" in metadata:
        labels = _as_labels(parse_literal(metadata["names"]))
    return labels or None


def find_label(labels: Sequence[str], text: str) -> int:
    """Find a class by its name.

    Case and underscores do not matter. The whole name goes first, then one of several names
    separated by commas, then a part of it, as long as it is the only one.

    Raises
    ------
    TargetError
        No class has that name (the nearest are listed), or several do (they are listed).
    """
    wanted = _plain(text)
    names = [_plain(label) for label in labels]
    matches = [
        [i for i, name in enumerate(names) if name == wanted],
        [i for i, name in enumerate(names) if wanted in (part.strip() for part in name.split(","))],
        [i for i, name in enumerate(names) if wanted and wanted in name],
    ]
    found = next((each for each in matches if each), [])
    if len(found) == 1:
        return found[0]
    if found:
        listed = "; ".join(f"{i} {labels[i]}" for i in found[:5])
        more = f" and {len(found) - 5} more" if len(found) > 5 else ""
        raise TargetError(f"label {text!r} fits several classes: {listed}{more}; give the index")
    near = difflib.get_close_matches(wanted, names, 3, cutoff=0.5)
    nearest = "; ".join(f"{names.index(name)} {labels[names.index(name)]}" for name in near)
    hint = f"the nearest are: {nearest}" if near else "look it up in the labels"
    raise TargetError(f"there is no label {text!r}; {hint}")


def check_labels(labels: Sequence[str], classes: int) -> None:
    """Raise `TargetError` where labels and classes do not go together one to one."""
    if len(labels) == classes:
        return
    hint = "give the labels that this model was trained with"
    if len(labels) == classes - 1:
        hint = "if its class 0 is the background, put a first line 'background' into the labels"
    elif len(labels) == classes + 1:
        hint = "if their first is the background, take it out"
    raise TargetError(f"there are {len(labels)} labels for the model's {classes} classes; {hint}")


def _plain(name: str) -> str:
    """Bring a name to the form in which it is compared."""
    return " ".join(name.casefold().replace("_", " ").split())


def _from_lines(text: str) -> tuple[str, ...]:
    """Read one name a line; blank lines count but at the end, for the line number is the index."""
    return tuple(line.strip() for line in text.rstrip().splitlines())


def _from_json(text: str) -> tuple[str, ...] | None:
    try:
        content = json.loads(text)
    except ValueError:
        return None
    if isinstance(content, dict) and "id2label" in content:
        content = content["id2label"]
    return _as_labels(content)


def _from_csv(text: str) -> tuple[str, ...] | None:
    """Read rows of index and name; a first row without an index is a heading."""
    rows = [row for row in csv.reader(text.splitlines()) if len(row) >= 2]
    if rows and not rows[0][0].strip().isdigit():
        rows = rows[1:]
    return _by_index((row[0].strip(), row[1].strip()) for row in rows)


def _as_labels(content: Any) -> tuple[str, ...] | None:
    """Read a list of names, or a table from index to name."""
    if isinstance(content, dict):
        return _by_index((str(index), str(name)) for index, name in content.items())
    if isinstance(content, list | tuple) and all(isinstance(each, str) for each in content):
        return tuple(content)
    return None


def _by_index(pairs: Iterable[tuple[str, str]]) -> tuple[str, ...] | None:
    """Put names in the order of their indices, None where an index is none."""
    table: dict[int, str] = {}
    for index, name in pairs:
        if not index.isdigit() or int(index) >= _MOST_CLASSES:
            return None
        table[int(index)] = name
    return tuple(table.get(i, f"class {i}") for i in range(max(table, default=-1) + 1))

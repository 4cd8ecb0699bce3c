"""Class names: read from files or model metadata, matched with the classes, looked up by name."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ibisa_onnx.errors import PreprocessingError, TargetError
from ibisa_onnx.escaping import shortened
from ibisa_onnx.io.files import name_of, read_text
from ibisa_onnx.io.literals import parse_csv, parse_integer, parse_json, parse_literal
from ibisa_onnx.limits import Limits
from ibisa_onnx.models.signature import METADATA_KEY
from ibisa_onnx.preprocessing.sources.files import companions
from ibisa_onnx.preprocessing.sources.metadata import (
    model_api_key,
    model_api_values,
    read_ibisa,
)

_MOST_CLASSES = 1_000_000
_LONGEST = 10_000  # characters of a label
_HALF = re.compile("[\ud800-\udfff]")
_COMPARED, _MOST_COMPARED = (
    100,
    20_000,
)  # limits of the search for similar names: characters, and number of names
_LISTED = 6  # labels in an error
BINARY = ("negative", "positive")
"""Default names of the two classes of a single score."""
_CHARACTER = "character"  # PaddleOCR's metadata key: one class or character per line


@dataclass(frozen=True)
class KnownLabels:
    """Class names by index, and their source; or a warning and no names."""

    source: str
    labels: tuple[str, ...]
    warning: str | None = None


@dataclass(frozen=True)
class ClassCount:
    """Number of classes of a model, and which labels match it.

    Attributes
    ----------
    classes
        Number of classes.
    one_score
        Whether both classes are read from a single score; a single label then names the positive.
    steps
        Whether the classes are characters of a text recogniser, whose blank (first) and space
        (last) are rarely among the labels.
    """

    classes: int
    one_score: bool = False
    steps: bool = False

    @classmethod
    def of_scores(cls, scores: int) -> ClassCount:
        """Return the count for a model with this many scores."""
        return cls(2, one_score=True) if scores == 1 else cls(scores)

    def fit(self, labels: Sequence[str]) -> tuple[str, ...]:
        """Return labels for all classes; `TargetError` if they do not match."""
        given = tuple(labels)
        if self.one_score and len(given) == 1:
            return f"not {given[0]}", given[0]
        if self.steps and 1 <= self.classes - len(given) <= 2:
            given = ("blank", *given, " ")[: self.classes]
        check_labels(given, self.classes)
        return given


def read_labels(path: str | os.PathLike[str], limits: Limits | None = None) -> tuple[str, ...]:
    """Read class names from a file, in index order.

    Parameters
    ----------
    path
        A text file with one name per line; a JSON file with a list, or a table from index to name
        (including the `config.json` of Hugging Face and timm); or a CSV file of index and name.
        UTF-8. Missing indices become "class 7".
    limits
        Limits on the file's size; None for those of the environment.

    Raises
    ------
    TargetError
        The file cannot be read or contains no labels.
    """
    path = Path(path)
    text = read_text(path, "labels", TargetError, limits)
    readers = {".json": _from_json, ".csv": _from_csv}
    why = ""
    try:
        labels = readers.get(path.suffix.lower(), _from_lines)(text)
    except ValueError as error:
        labels, why = None, f" ({error})"
    if not labels:
        raise TargetError(
            f"{name_of(path)} contains no labels{why}; use a name per line, JSON, or CSV index,name"
        )
    return checked_labels(labels, name_of(path))


def checked_labels(labels: Sequence[str], source: str) -> tuple[str, ...]:
    """Return class names, checked so that they can be displayed and written.

    Raises
    ------
    TargetError
        There are too many, or one is not text, is too long, or contains a lone surrogate.
    """
    if len(labels) > _MOST_CLASSES:
        raise TargetError(f"{source} holds {len(labels):,} labels, more than {_MOST_CLASSES:,}")
    for index, label in enumerate(labels):
        if not isinstance(label, str) or len(label) > _LONGEST:
            raise TargetError(
                f"label {index} of {source} is {label!r:.60}; use text of at most {_LONGEST:,} "
                "characters"
            )
        if not label.isascii() and _HALF.search(label):
            raise TargetError(
                f"label {index} of {source} is {label!r:.60}, which contains a lone surrogate; "
                "correct it"
            )
    return tuple(labels)


def known_labels(metadata: Mapping[str, str], folder: Path | None = None) -> list[KnownLabels]:
    """Return a model's own labels, most trusted source first.

    Parameters
    ----------
    metadata
        Metadata of the model file. Read are `ibisa`, Ultralytics' `names`, OpenVINO's Model API and
        PaddleOCR's `character`.
    folder
        Folder of the model file, in which a `config.json` of Hugging Face or timm is read; None if
        there is none.
    """
    found = [_from_ibisa(metadata)]
    if "names" in metadata:
        labels = _as_labels(parse_literal(metadata["names"]))
        found.append(_known("metadata key names", labels, metadata["names"]))
    words = model_api_values(metadata).get("labels")
    if words is not None:
        source = f"metadata key {model_api_key('labels')}"
        found.append(_known(source, tuple(words.split()), words))
    if _CHARACTER in metadata:
        lines = metadata[_CHARACTER].replace("\r\n", "\n").removesuffix("\n").split("\n")
        source = f"metadata key {_CHARACTER}"
        found.append(_known(source, tuple(filter(None, lines)) and tuple(lines), ""))
    found += [_from_companion(path, source) for path, source in companions(folder)]
    return [each for each in found if each is not None]


def choose_labels(
    known: Sequence[KnownLabels], count: ClassCount | int | None
) -> tuple[KnownLabels | None, list[str]]:
    """Return the first labels that match, and warnings about sources before them that do not.

    `count` is the number of classes; None if unknown.
    """
    count = ClassCount(count) if isinstance(count, int) else count
    warnings: list[str] = []
    refused: list[list[str]] = []
    for each in known:
        names = [_plain(label) for label in each.labels]
        if each.warning:
            warnings.append(each.warning)
            continue
        if names in refused:  # same names from another source
            continue
        try:
            labels = each.labels if count is None else count.fit(each.labels)
        except TargetError as error:
            warnings.append(f"ignored labels of {each.source}: {error}")
            refused.append(names)
            continue
        return replace(each, labels=labels), warnings
    return None, warnings


def find_label(labels: Sequence[str], text: str) -> int:
    """Find a class by its name.

    Case and underscores are ignored. A full match is preferred, then one of several names separated
    by commas, then a part of a name if it is unique.

    Raises
    ------
    TargetError
        No class has this name (similar ones are listed), or several do (they are listed).
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
        raise TargetError(f"label {text!r} matches several classes: {listed}{more}; pass the index")
    near = _nearest(wanted, names)
    nearest = "; ".join(f"{names.index(name)} {labels[names.index(name)]}" for name in near)
    if near:
        hint = f"similar labels: {nearest}"
    elif len(labels) == 1:
        hint = f"the only label is {labels[0]}"
    elif len(labels) <= _LISTED:
        hint = f"the labels are: {'; '.join(labels)}"
    else:
        hint = "look it up in the labels"
    raise TargetError(f"there is no label {text!r}; {hint}")


def spelt_index(text: str, labels: Sequence[str] | None) -> int | None:
    """Return the index that a word spells; None if it is a name.

    Accepts a number, or the form used for classes without labels: "class 7", "keypoint 4".

    Raises
    ------
    TargetError
        The number has too many digits for an index, and is not a label.
    """
    found = re.fullmatch(r"(class |keypoint )?\s*([+-]?[0-9]+)", text.strip().lower())
    if found is None or (found[1] and _plain(text) in map(_plain, labels or ())):
        return None
    index = parse_integer(found[2])
    if index is None and text.strip() not in (labels or ()):
        raise TargetError(
            f"target {shortened(text.strip(), 40)!r} has {len(found[2])} digits; pass a class index"
        )
    return index


def check_labels(labels: Sequence[str], classes: int) -> None:
    """Raise `TargetError` if labels and classes do not match one to one."""
    if len(labels) == classes:
        return
    hint = "pass the labels this model was trained with"
    if len(labels) == classes - 1:
        hint = "if class 0 is the background, add 'background' as the first label"
    elif len(labels) == classes + 1:
        hint = "if the first label is the background, remove it"
    raise TargetError(f"there are {len(labels)} labels for the model's {classes} classes; {hint}")


def _nearest(wanted: str, names: Sequence[str]) -> list[str]:
    """Return up to three similar names; among very many, only those with the same start."""
    compared = [name for name in names if len(name) <= _COMPARED]
    if len(compared) > _MOST_COMPARED:
        compared = [name for name in compared if name[:1] == wanted[:1]][:_MOST_COMPARED]
    return difflib.get_close_matches(wanted[:_COMPARED], compared, 3, cutoff=0.5)


def _plain(name: str) -> str:
    """Return a name in the form used for comparison."""
    return " ".join(name.casefold().replace("_", " ").split())


def _from_lines(text: str) -> tuple[str, ...]:
    """Read one name per line; blank lines count, except at the end: the line number is the index.

    A line of one space is the space, the last character of many text recognisers.
    """
    lines = [line if line == " " else line.strip() for line in text.splitlines()]
    while lines and not lines[-1]:
        lines.pop()
    return tuple(lines)


def _from_json(text: str) -> tuple[str, ...] | None:
    content = parse_json(text)
    said = _in_config(content) if isinstance(content, dict) else None
    return _as_labels(content if said is None else said)


def _in_config(config: Mapping[str, Any]) -> Any:
    """Return the labels in a `config.json` of Hugging Face or timm; None if there are none."""
    inner = config.get("pretrained_cfg")
    for table in (config, inner if isinstance(inner, dict) else {}):
        if "label_names" in table:  # timm's may be synset ids, with descriptions beside them
            names, words = _as_labels(table["label_names"]), table.get("label_descriptions")
            words = words if isinstance(words, dict) else {}
            return [str(words.get(name, name)) for name in names or ()]
    return config.get("id2label")


def _from_ibisa(metadata: Mapping[str, str]) -> KnownLabels | None:
    try:
        said = read_ibisa(metadata).get("labels")
    except PreprocessingError:
        return None  # resolving the preprocessing warns about it
    if said is None:
        return None
    return _known(f"metadata key {METADATA_KEY}", _as_labels(said), said)


def _from_companion(path: Path, source: str) -> KnownLabels | None:
    """Read a file beside the model; None if it does not mention labels."""
    try:
        content = parse_json(read_text(path, source, TargetError))
    except (TargetError, ValueError):
        return None  # resolving the preprocessing warns about it
    said = _in_config(content) if isinstance(content, dict) else None
    if said is None:
        return None
    labels = _as_labels(said)
    if labels and labels == tuple(f"LABEL_{i}" for i in range(len(labels))):
        return None  # Hugging Face's placeholders for unnamed classes
    return _known(source, labels, said)


def _known(source: str, labels: tuple[str, ...] | None, said: Any) -> KnownLabels:
    """Return the labels, or a warning that the content is not labels."""
    if labels:
        try:
            return KnownLabels(source, checked_labels(labels, source))
        except TargetError as error:
            return KnownLabels(source, (), f"ignored: {error}")
    text = str(said)
    shown = text if len(text) <= 60 else f"{text[:60]}…"
    return KnownLabels(source, (), f"ignored: {source} contains no class names: {shown!r}")


def _from_csv(text: str) -> tuple[str, ...] | None:
    """Read rows of index and name; a first row without an index is a header."""
    rows = [row for row in parse_csv(text) if len(row) >= 2]
    if rows and _index(rows[0][0]) is None:
        rows = rows[1:]
    return _by_index((row[0].strip(), row[1].strip()) for row in rows)


def _as_labels(content: Any) -> tuple[str, ...] | None:
    """Read a list of names, or a table from index to name."""
    if isinstance(content, dict):
        return _by_index((str(index), str(name)) for index, name in content.items())
    if isinstance(content, list | tuple) and all(isinstance(each, str) for each in content):
        return tuple(content)
    return None


def _index(word: str) -> int | None:
    """Return the class index that a word spells; None if it is not one."""
    index = parse_integer(word)
    return index if index is not None and 0 <= index < _MOST_CLASSES else None


def _by_index(pairs: Iterable[tuple[str, str]]) -> tuple[str, ...] | None:
    """Sort names by index; None if an index is invalid."""
    table: dict[int, str] = {}
    for word, name in pairs:
        index = _index(word)
        if index is None:
            return None
        table[index] = name
    return tuple(table.get(i, f"class {i}") for i in range(max(table, default=-1) + 1))

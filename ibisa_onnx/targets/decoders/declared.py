"""Boxes of a function: rows that come and go, in the form that is asked of it.

Boxes [N, n, 4] are left, top, right and bottom in pixels of the input, scores [N, n] or [N, n, K]
probabilities, labels [N, n] the classes' indices; or one table [N, n, 6] holds all three. Outputs
called as TensorFlow serves them (`detection_boxes`) are shares with y first. Nothing is inferred
from a few rows of one picture, in which centres may pass for corners: what each answer holds is
checked instead.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ibisa_onnx.errors import OutputError
from ibisa_onnx.models.head import Head
from ibisa_onnx.models.signature import TensorInfo
from ibisa_onnx.targets.base import Doubles, Raw
from ibisa_onnx.targets.decoders.base import (
    DEFAULT_CLASSES,
    Decoded,
    Detector,
    Layout,
    are_shares,
)
from ibisa_onnx.targets.facts import ModelFacts

_TENSORFLOW = "detection_boxes"
_COLUMNS = 6  # of a table: the box, a score and a class
_SCORES = re.compile(r"score|conf|prob", re.IGNORECASE)
_LABELS = re.compile(r"label|class|categor|(^|_)ids?$", re.IGNORECASE)


def find(facts: ModelFacts) -> Detector | None:
    """Recognise a function's boxes by the shapes and the names that it declares."""
    if facts.is_deployed or facts.size is None:
        return None
    rows = _table(facts) or _apart(facts)
    if rows is None:
        return None
    return Detector(
        family="rows of a function",
        reason=f"{rows.described}, a row for each object; boxes are taken for left, top, right and "
        f"bottom {'as shares, y first' if rows.y_first else 'in pixels of the input'}",
        sources=rows.sources,
        write=_writer(rows, facts.size),
        classes=rows.classes,
        labels=("object",) if rows.classes == 1 else None,
        dense=False,
        preprocessing={"resize": "stretch"},
        check=_checker(rows),
    )


@dataclass(frozen=True)
class _Rows:
    """Where boxes, scores and classes are.

    Attributes
    ----------
    sources
        One table; or boxes and scores; or boxes, scores and labels.
    classes
        How many there are.
    """

    sources: tuple[str, ...]
    classes: int

    @property
    def y_first(self) -> bool:
        return self.sources[0].startswith(_TENSORFLOW)

    @property
    def described(self) -> str:
        if len(self.sources) == 1:
            return f"output {self.sources[0]} holds box, score and class"
        return f"outputs {', '.join(self.sources)}"


def _table(facts: ModelFacts) -> _Rows | None:
    """Return the only output of three axes, if it has six columns."""
    tables = [each for each in facts.outputs if len(each.shape) == 3]
    if len(tables) != 1 or tables[0].shape[2] != _COLUMNS:
        return None
    return _Rows((tables[0].name,), max([DEFAULT_CLASSES, *facts.label_counts]))


def _apart(facts: ModelFacts) -> _Rows | None:
    """Return the outputs of boxes, of scores and, where there are any, of labels."""
    boxes = [each for each in facts.outputs if len(each.shape) == 3 and each.shape[2] == 4]
    boxes.sort(key=lambda each: "box" not in each.name.lower())
    if not boxes:
        return None
    rows = _open(boxes[0].shape[1])
    others = [
        each
        for each in facts.outputs
        if each is not boxes[0] and len(each.shape) in (2, 3) and _open(each.shape[1]) == rows
    ]
    singles = [each for each in others if len(each.shape) == 2]
    named = (each for each in singles if _LABELS.search(each.name))
    labels = next((each for each in named if not _SCORES.search(each.name)), None)
    scores = _scores([each for each in others if each is not labels], numbered=labels is not None)
    if scores is None:
        return None
    sources = [boxes[0].name, scores.name]
    if labels is not None:
        classes = max([DEFAULT_CLASSES, *facts.label_counts])
        return _Rows((*sources, labels.name), classes)
    if len(scores.shape) == 2:
        return _Rows(tuple(sources), 1)
    if isinstance(scores.shape[2], int):
        return _Rows(tuple(sources), scores.shape[2])
    seen = facts.probed.get(scores.name)  # an open K; 0 where no picture had a row yet
    return None if seen is None else _Rows(tuple(sources), max(1, seen.shape[2]))


def _scores(outputs: Sequence[TensorInfo], *, numbered: bool) -> TensorInfo | None:
    """Return the output of scores: the one that is called so, or the only one there is."""
    fitting = [each for each in outputs if len(each.shape) == 2 or not numbered]
    named = [each for each in fitting if _SCORES.search(each.name)]
    return named[0] if named else fitting[0] if len(fitting) == 1 else None


def _open(side: int | str | None) -> int | None:
    return side if isinstance(side, int) else None


def _writer(rows: _Rows, size: tuple[int, int]) -> Callable[[Head], Decoded]:
    def write(head: Head) -> Decoded:
        layout = Layout(head)
        if len(rows.sources) == 1:
            table = layout.floats(rows.sources[0])
            box, score, label = (layout.columns(table, a, b) for a, b in ((0, 4), (4, 5), (5, 6)))
            return Decoded(box, layout.numbered(label, score, rows.classes))
        box = layout.floats(rows.sources[0])
        if rows.y_first:
            box = head.op("Gather", box, head.constant([1, 0, 3, 2], np.int64), axis=2)
            box = layout.scaled(box, np.tile(size[::-1], 2))
        columns = 1 if len(rows.sources) == 3 else rows.classes
        shape = head.constant([0, -1, columns], np.int64)
        found = [head.op("Reshape", layout.floats(name), shape) for name in rows.sources[1:]]
        if len(found) == 1:
            return Decoded(box, found[0])
        score, label = found
        return Decoded(box, layout.numbered(label, score, rows.classes))

    return write


def _checker(rows: _Rows) -> Callable[[Raw], None]:
    """Return what sees that an answer holds what was asked of it; rows without a score are none."""

    def check(raw: Raw) -> None:
        values = [np.asarray(raw[name][0], np.float64) for name in rows.sources]
        names = list(rows.sources)
        if len(values) == 1:
            (table,) = values
            values = [table[:, :4], table[:, 4], table[:, 5]]
            names = [f"columns {part} of {names[0]}" for part in ("0 to 3", "4", "5")]
        boxes, scores, *labels = values
        sure = (scores if scores.ndim == 1 else scores.max(1, initial=0.0)) > 0
        _check_scores(names[1], scores)
        _check_boxes(names[0], boxes[sure], shares=rows.y_first)
        for each in labels:
            _check_labels(names[2], each[sure], rows.classes)

    return check


def _check_scores(name: str, scores: Doubles) -> None:
    if scores.max(initial=0.0) > 1 + 1e-3:
        raise OutputError(f"{name} go up to {scores.max():g}; return probabilities, 0 to 1")


def _check_boxes(name: str, boxes: npt.NDArray[np.float64], *, shares: bool) -> None:
    if not len(boxes):
        return
    if are_shares(boxes) and not shares:
        raise OutputError(
            f"{name} hold shares of the picture, up to {boxes.max():g}; return pixels of the input"
        )
    turned = ~(boxes[:, 2:] > boxes[:, :2]).all(1)
    if turned.mean() > 0.5:
        written = ",".join(f"{side:g}" for side in boxes[turned][0])
        raise OutputError(
            f"{name} {written} ends before it begins; return left, top, right and bottom"
        )


def _check_labels(name: str, labels: npt.NDArray[np.float64], classes: int) -> None:
    wrong = labels[(labels != np.rint(labels)) | (labels < 0)]
    if len(wrong):
        raise OutputError(f"{name} hold {wrong[0]:g}, which is no class's index")
    if len(labels) and labels.max() >= classes:
        raise OutputError(
            f"{name} hold class {labels.max():g}, and classes are 0 to {classes - 1}; "
            "give labels= a name for each"
        )

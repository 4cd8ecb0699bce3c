"""Boxes of a Python function: selected rows, in a documented form.

Boxes [N, n, 4] are left, top, right and bottom in pixels of the input, scores [N, n] or [N, n, K]
probabilities, labels [N, n] class indices; or one table [N, n, 6] holds all three. Outputs with
TensorFlow Serving's names (`detection_boxes`) are fractions, y first. Nothing is inferred from the
few rows of one image, in which centres could pass for corners; each prediction is checked instead.
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
_COLUMNS = 6  # of a table: box, score and class
_SCORES = re.compile(r"score|conf|prob", re.IGNORECASE)
_LABELS = re.compile(r"label|class|categor|(^|_)ids?$", re.IGNORECASE)


def find(facts: ModelFacts) -> Detector | None:
    """Recognise a function's boxes by the declared shapes and names."""
    if facts.is_deployed or facts.size is None:
        return None
    rows = _table(facts) or _apart(facts)
    if rows is None:
        return None
    return Detector(
        family="rows of a function",
        reason=f"{rows.described}, a row per object; boxes are read as left, top, right and "
        f"bottom {'as fractions, y first' if rows.y_first else 'in pixels of the input'}",
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
    """Outputs that hold boxes, scores and classes.

    Attributes
    ----------
    sources
        One table; or boxes and scores; or boxes, scores and labels.
    classes
        Number of classes.
    """

    sources: tuple[str, ...]
    classes: int

    @property
    def y_first(self) -> bool:
        return self.sources[0].startswith(_TENSORFLOW)

    @property
    def described(self) -> str:
        if len(self.sources) == 1:
            return f"output {self.sources[0]} contains box, score and class"
        return f"outputs {', '.join(self.sources)}"


def _table(facts: ModelFacts) -> _Rows | None:
    """Return the only three-dimensional output, if it has six columns."""
    tables = [each for each in facts.outputs if len(each.shape) == 3]
    if len(tables) != 1 or tables[0].shape[2] != _COLUMNS:
        return None
    return _Rows((tables[0].name,), max([DEFAULT_CLASSES, *facts.label_counts]))


def _apart(facts: ModelFacts) -> _Rows | None:
    """Return the outputs of boxes, of scores, and of labels if there are any."""
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
    seen = facts.probed.get(scores.name)  # dynamic K; 0 until an image had a row
    return None if seen is None else _Rows(tuple(sources), max(1, seen.shape[2]))


def _scores(outputs: Sequence[TensorInfo], *, numbered: bool) -> TensorInfo | None:
    """Return the output of scores: by its name, or the only one."""
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
    """Return a check that a prediction has the documented form; rows with score 0 are ignored."""

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
        raise OutputError(f"{name} are up to {scores.max():g}; return probabilities, 0 to 1")


def _check_boxes(name: str, boxes: npt.NDArray[np.float64], *, shares: bool) -> None:
    if not len(boxes):
        return
    if are_shares(boxes) and not shares:
        raise OutputError(
            f"{name} hold fractions of the image, up to {boxes.max():g}; return pixels of the input"
        )
    turned = ~(boxes[:, 2:] > boxes[:, :2]).all(1)
    if turned.mean() > 0.5:
        written = ",".join(f"{side:g}" for side in boxes[turned][0])
        raise OutputError(
            f"{name} {written} has right <= left or bottom <= top; return left, top, right, bottom"
        )


def _check_labels(name: str, labels: npt.NDArray[np.float64], classes: int) -> None:
    wrong = labels[(labels != np.rint(labels)) | (labels < 0)]
    if len(wrong):
        raise OutputError(f"{name} hold {wrong[0]:g}, which is not a class index")
    if len(labels) and labels.max() >= classes:
        raise OutputError(
            f"{name} hold class {labels.max():g}, but classes are 0 to {classes - 1}; "
            "pass labels= with a name for each"
        )

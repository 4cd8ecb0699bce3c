"""Selected rows: a table [N, n, 6], [n, 7] or [1, 1, n, 7] of box, score and class.

NMS or TopK selects them, so a row is a different object in another image; rows are matched by
overlap. Ultralytics with `nms`, and its NMS-free heads: x, y, x, y, score, class, others. Its
RT-DETR: centre and size as fractions, score, class. YOLOv7 and YOLO-NAS: image index, x, y, x, y,
then class and score or score and class. SSD of Caffe and OpenVINO: image index, class, score, box
as fractions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from ibisa_onnx.io.literals import parse_literal
from ibisa_onnx.models.head import Head
from ibisa_onnx.targets.decoders.base import (
    Decoded,
    Detector,
    Layout,
    are_corners,
    are_probabilities,
    are_shares,
)
from ibisa_onnx.targets.facts import ModelFacts

_DEFAULT_CLASSES = 80  # of COCO, if there are no labels
_LEAST_COLUMNS, _NUMBERED = 6, 7


def find(facts: ModelFacts) -> Detector | None:
    """Recognise a single output of rows, by its columns and their values."""
    if not facts.is_deployed:
        return None  # `declared` handles these
    size = facts.size
    for output in facts.outputs:
        if (
            size is None
            or not output.dtype.startswith("float")
            or len(output.shape) not in (2, 3, 4)
        ):
            continue
        columns = output.shape[-1]
        if not isinstance(columns, int) or columns < _LEAST_COLUMNS:
            continue
        if (len(output.shape) == 2 and columns != _NUMBERED) or not _selected(facts):
            continue
        table = facts.values([output.name]).get(output.name)
        if table is None:
            continue
        rows = table.reshape(-1, columns).astype(np.float64)
        places = _places(rows, columns, table.ndim)
        if places is None:
            continue
        box, score, label = places
        found = rows[:, box : box + 4]
        factors = np.tile(size[::-1], 2) if are_shares(found) else np.ones(4)
        classes = _classes(facts)
        return Detector(
            family="selected rows",
            reason=f"each row of {output.name} [{', '.join(map(str, table.shape))}] is a box "
            f"(columns {box} to {box + 3}), a score ({score}) and a class ({label})",
            sources=(output.name,),
            write=_writer(
                output.name, table.shape, places, factors, classes, corners=are_corners(found)
            ),
            classes=classes,
            dense=False,
            preprocessing={"resize": "letterbox", "preset": "unit"},
        )
    return None


def _selected(facts: ModelFacts) -> bool:
    """Return whether rows may have been selected: by the graph, the metadata, or unknown."""
    if facts.selects:
        return True
    said = facts.metadata.get("end2end", "") + facts.metadata.get("args", "")
    return "True" in said or facts.graph is None


def _classes(facts: ModelFacts) -> int:
    names = parse_literal(facts.metadata["names"]) if "names" in facts.metadata else None
    return len(names) if isinstance(names, dict | list) and names else _DEFAULT_CLASSES


def _places(rows: npt.NDArray[Any], columns: int, axes: int) -> tuple[int, int, int] | None:
    """Return the columns of box, score and class; None if the values contradict them."""
    numbered = axes == 4 or (axes == 2 and columns == _NUMBERED)
    if axes == 4:
        places = (3, 2, 1)
    elif not numbered:
        places = (0, 4, 5)
    else:
        class_first = bool((rows[:, 5] == np.rint(rows[:, 5])).all())
        places = (1, 6, 5) if class_first else (1, 5, 6)
    box, score, label = places
    boxes = rows[:, box : box + 4]
    fits = (
        (
            (are_corners(boxes) or boxes.min() >= 0)
            and are_probabilities(rows[:, score])
            and bool((rows[:, label] == np.rint(rows[:, label])).all())
        )
        if len(rows)
        else True
    )
    return places if fits else None


def _writer(
    name: str,
    shape: tuple[int, ...],
    places: tuple[int, int, int],
    factors: npt.NDArray[Any],
    classes: int,
    *,
    corners: bool,
) -> Callable[[Head], Decoded]:
    box, score, label = places
    columns = shape[-1]
    batched = len(shape) == 3

    def write(head: Head) -> Decoded:
        layout = Layout(head)
        rows = layout.floats(name)
        if not batched:
            rows = head.op("Reshape", rows, head.constant([1, -1, columns], np.int64))
        boxes = layout.scaled(layout.columns(rows, box, box + 4), factors)
        boxes = boxes if corners else layout.from_centres(boxes)
        numbers, sure = (layout.columns(rows, each, each + 1) for each in (label, score))
        return Decoded(boxes, layout.numbered(numbers, sure, classes))

    return write

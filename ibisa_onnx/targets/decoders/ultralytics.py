"""Ultralytics YOLO (v5u, v8, 9, 11, 12, 26, ...): one table [N, 4 + K + extra, A], no objectness.

Boxes are centre, width and height in pixels of the input, or two corners if the graph goes on to
select. Scores are sigmoids. Extra columns are mask coefficients, keypoints or an angle. Source:
ultralytics/nn/modules/head.py, `Detect`, `Segment`, `Pose` and `OBB`.
"""

from __future__ import annotations

from collections.abc import Sequence
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
    cells,
    grid,
    tables,
)
from ibisa_onnx.targets.facts import ModelFacts

_GRIDS = ((8, 16, 32), (8, 16, 32, 64), (4, 8, 16, 32), (16, 32))
_BOX = 4  # columns


def find(facts: ModelFacts) -> Detector | None:
    """Recognise the table by its number of cells, or by the metadata."""
    own = (
        "ultralytics"
        in (facts.metadata.get("author", "") + facts.metadata.get("license", "")).lower()
    )
    for name, (_, channels, anchors) in tables(facts).items():
        grids = [each for each in _GRIDS if cells(facts.size, each) == anchors]
        if channels <= _BOX or not (grids or (own and anchors > channels)):
            continue
        values = facts.values([name]).get(name)
        if values is None:
            continue
        rows = values.astype(np.float64).transpose(0, 2, 1)
        classes = _classes(facts, rows)
        if classes < 1:
            continue
        how = f"[1, {channels}, {anchors}] is a table of {anchors} cells"
        how += f" at strides {', '.join(map(str, grids[0]))}" if grids else ""
        angle = facts.metadata.get("task") == "obb"
        return Detector(
            family="YOLO (Ultralytics)",
            reason=f"{how}{'; its metadata name Ultralytics' if own else ''}",
            sources=(name,),
            write=_writer(name, classes, corners=_corners(facts, rows, grids), angle=angle),
            classes=classes,
            preprocessing={"resize": "letterbox", "preset": "unit"},
        )
    return None


def _classes(facts: ModelFacts, rows: npt.NDArray[Any]) -> int:
    """Return the number of score columns, by the model's labels or by the columns' values."""
    most = rows.shape[2] - _BOX
    names = parse_literal(facts.metadata["names"]) if "names" in facts.metadata else None
    if isinstance(names, dict | list) and 0 < len(names) <= most:
        return len(names)
    inside = (rows[..., _BOX:].min((0, 1)) >= 0) & (rows[..., _BOX:].max((0, 1)) <= 1)
    return int(np.argmin(inside)) if not inside.all() else most


def _corners(facts: ModelFacts, rows: npt.NDArray[Any], grids: Sequence[Sequence[int]]) -> bool:
    """Return whether boxes are two corners, as in heads without NMS.

    If the metadata do not determine it: then the middle of both corners, rather than the first two
    columns, is near the cell.
    """
    if facts.metadata.get("end2end") == "True":
        return True
    size = facts.size
    if size is None or not grids:
        return are_corners(rows[..., :_BOX])
    places = grid(size, grids[0])
    centres = (places[:, :2] + 0.5) * places[:, 2:]
    apart = [
        float(np.median(np.abs(found - centres) / places[:, 2:]))
        for found in ((rows[0, :, :2] + rows[0, :, 2:_BOX]) / 2, rows[0, :, :2])
    ]
    return apart[0] < apart[1]


def _writer(name: str, classes: int, *, corners: bool, angle: bool) -> Any:
    def write(head: Head) -> Decoded:
        layout = Layout(head)
        rows = layout.floats(layout.turned(name))
        boxes = layout.columns(rows, 0, _BOX)
        if angle:
            turn = layout.columns(rows, _BOX + classes, _BOX + classes + 1)
            boxes = _upright(layout, boxes, turn)
        elif not corners:
            boxes = layout.from_centres(boxes)
        return Decoded(boxes, layout.columns(rows, _BOX, _BOX + classes))

    return write


def _upright(layout: Layout, boxes: str, turn: str) -> str:
    """Return the upright bounding boxes of rotated ones."""
    head = layout.head
    wide, high = layout.columns(boxes, 2, 3), layout.columns(boxes, 3, 4)
    cosine, sine = (head.op("Abs", head.op(op, turn)) for op in ("Cos", "Sin"))
    sides = [
        head.op("Add", head.op("Mul", along, cosine), head.op("Mul", across, sine))
        for along, across in ((wide, high), (high, wide))
    ]
    return layout.corners(layout.columns(boxes, 0, 2), head.op("Concat", *sides, axis=2))

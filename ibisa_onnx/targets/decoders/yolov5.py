"""YOLOv5 and v7: one table [N, A, 5 + K] with three anchors per cell and an objectness.

Boxes are centre, width and height in pixels or fractions; a class score is multiplied by the
objectness, both being sigmoids. Source: yolov5/models/yolo.py, `Detect.forward`; YOLOv7's `--grid`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from ibisa_onnx.models.head import Head
from ibisa_onnx.targets.decoders.base import (
    Decoded,
    Detector,
    Layout,
    are_probabilities,
    are_shares,
    cells,
    tables,
)
from ibisa_onnx.targets.facts import ModelFacts

_GRIDS = ((8, 16, 32), (8, 16, 32, 64))
_ANCHORS = 3
_BEFORE = 5  # columns: box and objectness


def find(facts: ModelFacts) -> Detector | None:
    """Recognise the table by its number of cells."""
    size = facts.size
    for name, (_, anchors, columns) in tables(facts).items():
        strides = next((each for each in _GRIDS if _ANCHORS * cells(size, each) == anchors), None)
        if strides is None or size is None or columns <= _BEFORE:
            continue
        values = facts.values([name]).get(name)
        if values is None or not are_probabilities(values[..., 4:]):
            continue
        factors = np.tile(size[::-1], 2) if are_shares(values[..., :4]) else np.ones(4)
        return Detector(
            family="YOLOv5/v7",
            reason=f"[1, {anchors}, {columns}] is a table of 3 anchors per cell at strides "
            f"{', '.join(map(str, strides))}, with objectness",
            sources=(name,),
            write=_writer(name, columns, factors),
            classes=columns - _BEFORE,
            preprocessing={"resize": "letterbox", "preset": "unit"},
        )
    return None


def _writer(name: str, columns: int, factors: npt.NDArray[np.number]) -> Callable[[Head], Decoded]:
    def write(head: Head) -> Decoded:
        layout = Layout(head)
        rows = layout.floats(name)
        boxes = layout.scaled(layout.columns(rows, 0, 4), factors)
        return Decoded(layout.from_centres(boxes), layout.with_objectness(rows, columns))

    return write

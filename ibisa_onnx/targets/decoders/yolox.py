"""YOLOX: one table [N, A, 5 + K], one anchor per cell, boxes usually not decoded.

If not decoded, a box is (offset + cell) * stride and exp(size) * stride; objectness and classes are
sigmoids. Images are BGR 0..255, placed in the top left corner. Source: YOLOX/yolox/utils/
demo_utils.py and data/data_augment.py.
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
    cells,
    grid,
    tables,
)
from ibisa_onnx.targets.facts import ModelFacts

_GRIDS = ((8, 16, 32), (8, 16, 32, 64))
_BEFORE = 5


def find(facts: ModelFacts) -> Detector | None:
    """Recognise the table by its number of cells."""
    size = facts.size
    for name, (_, anchors, columns) in tables(facts).items():
        strides = next((each for each in _GRIDS if cells(size, each) == anchors), None)
        if strides is None or size is None or columns <= _BEFORE:
            continue
        values = facts.values([name]).get(name)
        if values is None or not are_probabilities(values[..., 4:]):
            continue
        decoded = bool(values[..., :2].max() > min(size) / 2)
        return Detector(
            family="YOLOX",
            reason=f"[1, {anchors}, {columns}] is a table of one anchor per cell at strides "
            f"{', '.join(map(str, strides))}, with objectness; its boxes are "
            f"{'decoded' if decoded else 'not decoded'}",
            sources=(name,),
            write=_writer(name, columns, None if decoded else grid(size, strides)[None]),
            classes=columns - _BEFORE,
            preprocessing={"resize": "letterbox-corner", "preset": "raw", "channel_order": "BGR"},
        )
    return None


def _writer(
    name: str, columns: int, places: npt.NDArray[np.float32] | None
) -> Callable[[Head], Decoded]:
    """`places` are column, row and stride of each cell, [1, A, 3]; None if boxes are decoded."""

    def write(head: Head) -> Decoded:
        layout = Layout(head)
        rows = layout.floats(name)
        centres, sides = layout.columns(rows, 0, 2), layout.columns(rows, 2, 4)
        if places is not None:
            centres = head.op("Add", centres, head.constant(places[..., :2]))
            centres = layout.scaled(centres, places[..., 2:])
            sides = layout.scaled(head.op("Exp", sides), places[..., 2:])
        return Decoded(layout.corners(centres, sides), layout.with_objectness(rows, columns))

    return write

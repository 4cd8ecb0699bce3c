"""SCRFD and RetinaFace's successors: scores, distances and keypoints per stride.

Two anchors per cell; a box is the cell's position minus and plus the distances to its four sides,
times the stride. Source: insightface, python-package/insightface/model_zoo/scrfd.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ibisa_onnx.models.head import Head
from ibisa_onnx.targets.decoders.base import Decoded, Detector, Layout, grid
from ibisa_onnx.targets.facts import ModelFacts

_STRIDES = {6: (8, 16, 32), 9: (8, 16, 32), 10: (8, 16, 32, 64, 128), 15: (8, 16, 32, 64, 128)}
"""Strides by the number of outputs."""


def find(facts: ModelFacts) -> Detector | None:
    """Recognise the outputs by their number, and by their numbers of rows."""
    strides, size = _STRIDES.get(len(facts.outputs)), facts.size
    if strides is None or size is None:
        return None
    names = [each.name for each in facts.outputs]
    scores, boxes = names[: len(strides)], names[len(strides) : 2 * len(strides)]
    known = facts.shapes([*scores, *boxes])
    shapes = [known.get(name) for name in (*scores, *boxes)]
    columns = [1] * len(strides) + [4] * len(strides)
    if any(not shape or shape[-1] != want for shape, want in zip(shapes, columns, strict=True)):
        return None
    rows = [int(np.prod(shape)) for shape in shapes[: len(strides)] if shape]
    places = [len(grid(size, [stride])) for stride in strides]
    anchors = rows[0] // places[0]
    if anchors not in (1, 2) or rows != [anchors * each for each in places]:
        return None
    where = grid(size, strides, anchors)[None]

    def write(head: Head) -> Decoded:
        layout = Layout(head)

        def joined(tables: list[str], count: int) -> str:
            shape = head.constant([-1, count], np.int64)
            rows = [head.op("Reshape", layout.floats(name), shape) for name in tables]
            every = head.op("Concat", *rows, axis=0)
            return head.op("Reshape", every, head.constant([1, -1, count], np.int64))

        distances: Any = layout.scaled(joined(boxes, 4), where[..., 2:])
        centres = head.constant(where[..., :2] * where[..., 2:])
        first = head.op("Sub", centres, layout.columns(distances, 0, 2))
        second = head.op("Add", centres, layout.columns(distances, 2, 4))
        return Decoded(head.op("Concat", first, second, axis=2), joined(scores, 1))

    return Detector(
        family="SCRFD",
        reason=f"{len(names)} outputs: scores and distances at strides "
        f"{', '.join(map(str, strides))}, {anchors} anchor(s) per cell",
        sources=(*scores, *boxes),
        write=write,
        classes=1,
        labels=("face",),
        preprocessing={"resize": "letterbox-corner", "preset": "tf"},
    )

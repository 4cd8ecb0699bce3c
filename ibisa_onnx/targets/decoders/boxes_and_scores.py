"""Boxes [N, A, 4] with scores [N, A, K] or [N, K, A]: SSD, RFB, RetinaNet and similar.

Boxes are two corners, or centre and size, in pixels or fractions of the image, x before y (in
TensorFlow, y before x). If scores sum to one, the first class is the background.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from ibisa_onnx.models.head import Head
from ibisa_onnx.targets.decoders.base import (
    Decoded,
    Detector,
    Layout,
    are_corners,
    are_probabilities,
    are_shares,
    is_named_otherwise,
    keeps_places,
)
from ibisa_onnx.targets.facts import ModelFacts

_TENSORFLOW = ("detection_boxes", "raw_detection_boxes")
_LEAST = 16  # anchors: fewer may be other coordinates
_LEAST_RETURNED = 1000  # by a function: fewer may be selected rows, as in `declared`


def find(facts: ModelFacts) -> Detector | None:
    """Recognise a table of boxes and a table of scores with the same number of anchors."""
    shapes, least = _shapes(facts), _LEAST if facts.is_deployed else _LEAST_RETURNED
    for boxes, anchors in _boxes(shapes, least):
        for scores, shape in shapes.items():
            turned = len(shape) == 3 and shape[2] == anchors and shape[1] != anchors
            if scores == boxes or len(shape) != 3 or anchors not in shape[1:]:
                continue
            if is_named_otherwise(boxes, scores):
                continue
            found = facts.values([boxes, scores])
            if len(found) == 2:
                table = found[scores].transpose(0, 2, 1) if turned else found[scores]
                detector = _detector(facts, boxes, scores, found[boxes], table, turned=turned)
                if detector is not None:
                    return detector
    return None


def _shapes(facts: ModelFacts) -> dict[str, tuple[int, ...]]:
    if facts.two_stage:
        return {}
    raw = [each.name for each in facts.outputs if keeps_places(facts, each)]
    names = facts.dense if facts.dense else raw
    return {name: shape for name, shape in facts.shapes(names).items() if shape}


def _boxes(shapes: dict[str, tuple[int, ...]], least: int) -> Iterator[tuple[str, int]]:
    """Yield tensors with four values per anchor, and the number of anchors."""
    for name, shape in shapes.items():
        anchors = int(np.prod(shape)) // 4
        flat = shape in ((1, anchors, 4), (anchors, 4), (1, anchors, 1, 4), (anchors, 2, 2))
        if flat and anchors >= least:
            yield name, anchors


def _detector(
    facts: ModelFacts,
    boxes: str,
    scores: str,
    corners: npt.NDArray[np.float32],
    table: npt.NDArray[np.float32],
    *,
    turned: bool,
) -> Detector | None:
    """Return the detector; None if the values are not boxes or not probabilities."""
    anchors, columns = table.shape[1:]
    rows, size = corners.astype(np.float64).reshape(-1, 4), facts.size
    if size is None or not are_probabilities(table):
        return None
    in_corners = are_corners(rows)
    if not in_corners and rows[:, 2:].min() < 0:
        return None  # offsets from priors, which are unknown
    background = columns > 1 and bool(np.allclose(table.sum(-1), 1, atol=1e-2))
    factors = np.tile(size[::-1], 2) if are_shares(rows) else np.ones(4)
    y_first = boxes.split(":")[0] in _TENSORFLOW

    def write(head: Head) -> Decoded:
        layout = Layout(head)
        rows = layout.floats(layout.turned(scores) if turned else scores)
        if background:
            rows = layout.columns(rows, 1, columns)
        found = head.op("Reshape", layout.floats(boxes), head.constant([-1, anchors, 4], np.int64))
        if y_first:
            order = head.constant([1, 0, 3, 2], np.int64)
            found = head.op("Gather", found, order, axis=2)
        found = layout.scaled(found, factors)
        return Decoded(found if in_corners else layout.from_centres(found), rows)

    where = "before the selection" if facts.dense else "outputs"
    return Detector(
        family="boxes and scores (SSD and similar)",
        reason=f"{boxes} has a box and {scores} has scores for each of {anchors} anchors ({where})",
        sources=(boxes, scores),
        write=write,
        classes=columns - background,
        labels=("object",) if columns - background == 1 else None,
        preprocessing={"resize": "stretch"},
    )

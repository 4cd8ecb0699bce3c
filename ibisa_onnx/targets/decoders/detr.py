"""DETR and relatives: logits [N, Q, K] with boxes [N, Q, 4], centres and sizes as fractions.

Logits of DETR and YOLOS go through a softmax whose last class is "no object"; those of Deformable
DETR, RT-DETR and DINO through sigmoids. They are told apart by the number of labels, by COCO's
class counts (80, 90 or 91; 92 with "no object"), or by whether most queries for noise are "no
object". Source: transformers, models/detr and models/rt_detr.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ibisa_onnx.models.head import Head
from ibisa_onnx.targets.decoders.base import (
    Decoded,
    Detector,
    Layout,
    are_corners,
    are_probabilities,
    is_named_otherwise,
    keeps_places,
)
from ibisa_onnx.targets.facts import ModelFacts
from ibisa_onnx.targets.labels import known_labels

_COCO = {80: False, 90: False, 91: False, 92: True}
"""Whether COCO class counts include "no object"."""


def find(facts: ModelFacts) -> Detector | None:
    """Recognise boxes that are fractions, with logits for as many queries."""
    shapes, size = _outputs(facts), facts.size
    for boxes, (_, queries, columns) in shapes.items():
        for logits, (_, rows, classes) in shapes.items():
            if columns != 4 or rows != queries or logits == boxes or size is None or classes < 2:
                continue
            if is_named_otherwise(boxes, logits):
                continue
            values = facts.values([boxes, logits])
            shares = len(values) == 2 and are_probabilities(values[boxes])
            if not shares or are_probabilities(values[logits]) or are_corners(values[boxes]):
                continue
            none = _has_none(facts, values[logits])
            return _detector(facts, boxes, logits, queries, classes, size, none=none)
    return None


def _outputs(facts: ModelFacts) -> dict[str, tuple[int, ...]]:
    """Return the outputs' shapes [1, a, b] by name; an inner TopK only selects queries."""
    tables = [it for it in facts.outputs if len(it.shape) == 3 and keeps_places(facts, it)]
    shapes = facts.shapes([each.name for each in tables])
    return {name: shape for name, shape in shapes.items() if len(shape) == 3}


def _has_none(facts: ModelFacts, logits: npt.NDArray[Any]) -> bool:
    """Return whether the last class of logits [1, Q, K] is "no object"."""
    classes = logits.shape[2]
    counts = {len(each.labels) for each in known_labels(facts.metadata, facts.model.folder)}
    if counts & {classes, classes - 1}:
        return classes not in counts
    by_noise = bool((logits[0].argmax(1) == classes - 1).mean() > 0.5)
    return _COCO.get(classes, by_noise)


def _detector(
    facts: ModelFacts,
    boxes: str,
    logits: str,
    queries: int,
    classes: int,
    size: tuple[int, int],
    *,
    none: bool,
) -> Detector:

    def write(head: Head) -> Decoded:
        layout = Layout(head)
        rows = layout.floats(logits)
        if none:
            rows = layout.columns(head.op("Softmax", rows, axis=2), 0, classes - 1)
        else:
            rows = head.op("Sigmoid", rows)
        shares = layout.scaled(layout.floats(boxes), np.tile(size[::-1], 2))
        return Decoded(layout.from_centres(shares), rows)

    how = 'a softmax whose last class is "no object"' if none else "a sigmoid per class"
    return Detector(
        family="DETR" if none else "RT-DETR, Deformable DETR",
        reason=f"{logits} has logits and {boxes} has boxes for each of {queries} queries; the "
        f"logits are read through {how}",
        sources=(boxes, logits),
        write=write,
        classes=classes - none,
        dense=not facts.selects,
        preprocessing={"resize": "stretch", "preset": "imagenet" if none else "unit"},
    )

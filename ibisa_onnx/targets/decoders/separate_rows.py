"""Selected boxes, scores and classes in separate outputs: torchvision, TensorFlow, RT-DETR.

Boxes are [N, n, 4] or [n, 4], scores and classes [N, n] or [n]. torchvision's boxes are pixels,
TensorFlow's (`detection_boxes`) fractions, y first. Class 0 may be the background.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from ibisa_onnx.models.head import Head
from ibisa_onnx.targets.decoders.base import (
    DEFAULT_CLASSES,
    Decoded,
    Detector,
    Layout,
    are_shares,
)
from ibisa_onnx.targets.facts import ModelFacts

_WORDS = ("box", "score", "label", "class")


def find(facts: ModelFacts) -> Detector | None:
    """Recognise the outputs by rank and name: boxes, scores, and labels or classes."""
    by_word = {
        word: [
            each for each in facts.outputs if word in each.name.lower() and "raw" not in each.name
        ]
        for word in _WORDS
    }
    boxes = [each for each in by_word["box"] if each.shape and each.shape[-1] == 4]
    labels = [*by_word["label"], *by_word["class"]]
    if not (boxes and by_word["score"] and labels):
        boxes, scores, labels = _by_shape(facts)
    else:
        scores = by_word["score"]
    if not (boxes and scores and labels) or facts.size is None:
        return None
    box, score, label = boxes[0].name, scores[0].name, labels[0].name
    found = facts.values([box, score, label])
    rank = len(boxes[0].shape)
    same = len(scores[0].shape) == len(labels[0].shape) == rank - 1
    if not same or rank not in (2, 3):
        return None
    values = found.get(box)
    shares = values is not None and values.size > 0 and are_shares(values)
    y_first = box.startswith("detection_boxes")
    factors = np.tile(facts.size[::-1], 2) if shares or y_first else np.ones(4)
    classes = max([DEFAULT_CLASSES, *facts.label_counts])
    return Detector(
        family="selected boxes, scores and classes",
        reason=f"outputs {box}, {score} and {label}, a row per object",
        sources=(box, score, label),
        write=_writer((box, score, label), factors, classes, y_first=y_first, batched=rank == 3),
        classes=classes,
        dense=False,
        preprocessing={"resize": "stretch", "preset": "raw" if y_first else "unit"},
    )


def _by_shape(facts: ModelFacts) -> tuple[list, list, list]:  # type: ignore[type-arg]
    """Return boxes [n, 4], scores [n] and integer labels [n], regardless of their names."""
    floats = [each for each in facts.outputs if each.dtype.startswith("float")]
    boxes = [each for each in floats if len(each.shape) in (2, 3) and each.shape[-1] == 4]
    rank = len(boxes[0].shape) - 1 if boxes else -1
    scores = [each for each in floats if len(each.shape) == rank]
    labels = [each for each in facts.outputs if "int" in each.dtype and len(each.shape) == rank]
    return (boxes, scores, labels) if len(facts.outputs) in (3, 4) else ([], [], [])


def _writer(
    names: tuple[str, str, str],
    factors: npt.NDArray[np.float64],
    classes: int,
    *,
    y_first: bool,
    batched: bool,
) -> Callable[[Head], Decoded]:
    def write(head: Head) -> Decoded:
        layout = Layout(head)
        box, score, label = (
            _rows(layout, name, columns, batched=batched)
            for name, columns in zip(names, (4, 1, 1), strict=True)
        )
        if y_first:
            box = head.op("Gather", box, head.constant([1, 0, 3, 2], np.int64), axis=2)
        return Decoded(layout.scaled(box, factors), layout.numbered(label, score, classes))

    return write


def _rows(layout: Layout, name: str, columns: int, *, batched: bool) -> str:
    shape = [0, -1, columns] if batched else [1, -1, columns]
    head = layout.head
    return head.op("Reshape", layout.floats(name), head.constant(shape, np.int64))

"""YuNet: class, objectness, box and keypoints at strides 8, 16 and 32, `cls_8` and so on.

A score is sqrt(class * objectness); a box is (cell + offset) * stride and exp(size) * stride.
Source: OpenCV, modules/objdetect/src/face_detect.cpp.
"""

from __future__ import annotations

from ibisa_onnx.models.head import Head
from ibisa_onnx.targets.decoders.base import Decoded, Detector, Layout, grid
from ibisa_onnx.targets.facts import ModelFacts

_STRIDES = (8, 16, 32)
_KINDS = ("cls", "obj", "bbox")


def find(facts: ModelFacts) -> Detector | None:
    """Recognise the outputs by their names."""
    names = {each.name for each in facts.outputs}
    tables = {kind: [f"{kind}_{stride}" for stride in _STRIDES] for kind in _KINDS}
    if facts.size is None or not all(names.issuperset(each) for each in tables.values()):
        return None
    places = grid(facts.size, _STRIDES)[None]

    def write(head: Head) -> Decoded:
        layout = Layout(head)
        classes, objects, boxes = (
            head.op("Concat", *map(layout.floats, tables[kind]), axis=1) for kind in _KINDS
        )
        centres = head.op("Add", layout.columns(boxes, 0, 2), head.constant(places[..., :2]))
        sides = layout.scaled(head.op("Exp", layout.columns(boxes, 2, 4)), places[..., 2:])
        corners = layout.corners(layout.scaled(centres, places[..., 2:]), sides)
        return Decoded(corners, head.op("Sqrt", head.op("Mul", classes, objects)))

    return Detector(
        family="YuNet",
        reason="outputs cls, obj and bbox at strides 8, 16 and 32",
        sources=tuple(name for each in tables.values() for name in each),
        write=write,
        classes=1,
        labels=("face",),
        preprocessing={"resize": "stretch", "preset": "raw", "channel_order": "BGR"},
    )

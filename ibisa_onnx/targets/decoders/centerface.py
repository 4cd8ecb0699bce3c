"""CenterFace: a heat map [N, 1, h, w], sizes and offsets [N, 2, h, w] each, and landmarks.

Cells are 4 pixels wide; sizes are exp(s) * 4, y before x. Source: CenterFace,
prj-python/centerface.py.
"""

from __future__ import annotations

import numpy as np

from ibisa_onnx.models.head import Head
from ibisa_onnx.targets.decoders.base import Decoded, Detector, Layout, grid
from ibisa_onnx.targets.facts import ModelFacts

_STRIDE = 4
_CHANNELS = (1, 2, 2, 10)


def find(facts: ModelFacts) -> Detector | None:
    """Recognise the four outputs by their channels."""
    channels = tuple(each.shape[1] if len(each.shape) == 4 else None for each in facts.outputs)
    size = facts.size
    if channels != _CHANNELS or size is None:
        return None
    heat, sides, offsets = (each.name for each in facts.outputs[:3])
    if (facts.shape(heat) or ())[1:] != (1, *(side // _STRIDE for side in size)):
        return None
    places = grid(size, [_STRIDE])[None]

    def write(head: Head) -> Decoded:
        layout = Layout(head)

        def rows(name: str, count: int) -> str:
            shape = head.constant([0, count, -1], np.int64)
            turned = layout.turned(head.op("Reshape", layout.floats(name), shape))
            order = head.constant(np.arange(count)[::-1].copy(), np.int64)  # y before x
            return head.op("Gather", turned, order, axis=2)

        centres = head.op("Add", rows(offsets, 2), head.constant(places[..., :2] + 0.5))
        lengths = layout.scaled(head.op("Exp", rows(sides, 2)), _STRIDE)
        return Decoded(layout.corners(layout.scaled(centres, _STRIDE), lengths), rows(heat, 1))

    return Detector(
        family="CenterFace",
        reason="a heat map, sizes, offsets and landmarks, with 4-pixel cells",
        sources=(heat, sides, offsets),
        write=write,
        classes=1,
        labels=("face",),
        preprocessing={"resize": "stretch", "preset": "raw"},
    )

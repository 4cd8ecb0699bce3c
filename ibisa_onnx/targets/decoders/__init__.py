"""Decoders: boxes and scores from the raw outputs of detectors, one file per family of formats.

To add one, copy `yolov5.py`, and add a line here.
"""

from __future__ import annotations

from ibisa_onnx.targets.decoders import (
    boxes_and_scores,
    centerface,
    declared,
    detr,
    rows,
    scrfd,
    separate_rows,
    ultralytics,
    yolov5,
    yolox,
    yunet,
)
from ibisa_onnx.targets.decoders.base import Decoder

DECODERS: tuple[Decoder, ...] = (
    yunet.find,
    scrfd.find,
    centerface.find,
    ultralytics.find,
    yolov5.find,
    yolox.find,
    detr.find,
    boxes_and_scores.find,
    declared.find,
    separate_rows.find,
    rows.find,
)
"""Decoders in the order in which they are tried, most specific first."""

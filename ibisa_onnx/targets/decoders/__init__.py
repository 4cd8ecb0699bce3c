"""Decoders: raw outputs of detectors as boxes and scores, one file a family of formats.

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
"""In the order in which they are tried, the most particular first."""

"""How good a map is: by the model itself, by known objects, by other seeds, by another model."""

from __future__ import annotations

from ibisa_onnx.metrics.insertion_deletion import (
    RISE,
    Curve,
    Protocol,
    blurred,
    deletion,
    insertion,
)
from ibisa_onnx.metrics.metric import Interval, Metric, Scores
from ibisa_onnx.metrics.subject import Score, Subject

__all__ = [
    "RISE",
    "Curve",
    "Interval",
    "Metric",
    "Protocol",
    "Score",
    "Scores",
    "Subject",
    "blurred",
    "deletion",
    "insertion",
]

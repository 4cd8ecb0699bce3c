"""Faithfulness: how well a map agrees with what the model does when pixels come and go."""

from __future__ import annotations

from ibisa_onnx.metrics.insertion_deletion import Curve, blurred, deletion, insertion

__all__ = ["Curve", "blurred", "deletion", "insertion"]

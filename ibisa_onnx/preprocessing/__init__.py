"""From a picture to a model's input tensor and back: the spec, its sources, and the geometry."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ibisa_onnx.imports import lazy_names

if TYPE_CHECKING:
    from ibisa_onnx.preprocessing.annotate import annotate
    from ibisa_onnx.preprocessing.geometry import Geometry
    from ibisa_onnx.preprocessing.resolve import Overrides
    from ibisa_onnx.preprocessing.spec import PRESETS, Prepared, Preprocessing, mean_colour, prepare

_HOMES = {
    "Geometry": "geometry",
    "Overrides": "resolve",
    "PRESETS": "spec",
    "Prepared": "spec",
    "Preprocessing": "spec",
    "annotate": "annotate",
    "mean_colour": "spec",
    "prepare": "spec",
}

__all__ = [
    "PRESETS",
    "Geometry",
    "Overrides",
    "Prepared",
    "Preprocessing",
    "annotate",
    "mean_colour",
    "prepare",
]

__getattr__, __dir__ = lazy_names(__name__, _HOMES)

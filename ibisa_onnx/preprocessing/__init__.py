"""From a picture to a model's input tensor and back: the spec, its sources, and the geometry."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ibisa_onnx.imports import lazy_names

if TYPE_CHECKING:
    from ibisa_onnx.preprocessing.annotate import annotate
    from ibisa_onnx.preprocessing.geometry import Geometry
    from ibisa_onnx.preprocessing.resolve import Overrides
    from ibisa_onnx.preprocessing.spec import PRESETS, Prepared, Preprocessing, mean_colour, prepare
    from ibisa_onnx.preprocessing.trial import Trial, TrialRanking, rank_preprocessing

_HOMES = {
    "Geometry": "geometry",
    "Overrides": "resolve",
    "PRESETS": "spec",
    "Prepared": "spec",
    "Preprocessing": "spec",
    "Trial": "trial",
    "TrialRanking": "trial",
    "annotate": "annotate",
    "mean_colour": "spec",
    "prepare": "spec",
    "rank_preprocessing": "trial",
}

__all__ = [
    "PRESETS",
    "Geometry",
    "Overrides",
    "Prepared",
    "Preprocessing",
    "Trial",
    "TrialRanking",
    "annotate",
    "mean_colour",
    "prepare",
    "rank_preprocessing",
]

__getattr__, __dir__ = lazy_names(__name__, _HOMES)

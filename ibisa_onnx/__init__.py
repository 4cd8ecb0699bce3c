"""Which pixels did this very ONNX model need for this very answer?

    import ibisa_onnx as ibisa

    explanation = ibisa.Explainer("model.onnx").explain("img.png")
    explanation.save("out/")

Names are loaded when first asked for, so that importing the package stays quick.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ibisa_onnx.imports import lazy_names

if TYPE_CHECKING:
    from ibisa_onnx.errors import (
        ExportError,
        GradientError,
        IbisaError,
        ImageError,
        MetricError,
        MissingDependencyError,
        ModelError,
        NonFiniteGradientError,
        OptionError,
        OutputError,
        PreprocessingError,
        ProviderError,
        ResultError,
        TargetError,
        UnsupportedOperatorError,
    )
    from ibisa_onnx.explainer import Explainer, Image, Prediction, Target
    from ibisa_onnx.explanation import Certificate, Explanation
    from ibisa_onnx.methods.base import Method
    from ibisa_onnx.methods.ibisa.options import Options
    from ibisa_onnx.models.base import ImageModel
    from ibisa_onnx.models.function import FunctionModel, InputSpec
    from ibisa_onnx.models.onnx_session import DeployedModel
    from ibisa_onnx.preprocessing.resolve import Overrides
    from ibisa_onnx.preprocessing.spec import Preprocessing
    from ibisa_onnx.targets.arguments import PointTarget
    from ibisa_onnx.targets.base import Answer, Context, Kind, Objective, TargetSpec
    from ibisa_onnx.targets.classification import ClassTarget
    from ibisa_onnx.targets.contrast import ContrastTarget
    from ibisa_onnx.targets.detection import BestAnchor, BoxTarget
    from ibisa_onnx.targets.embedding import SimilarityTarget
    from ibisa_onnx.targets.keypoints import KeypointTarget
    from ibisa_onnx.targets.segmentation import RegionTarget
    from ibisa_onnx.targets.sequence import TextTarget
    from ibisa_onnx.targets.value import ValueTarget

_HOMES = {
    "Answer": "targets.base",
    "BestAnchor": "targets.detection",
    "BoxTarget": "targets.detection",
    "Certificate": "explanation",
    "ClassTarget": "targets.classification",
    "Context": "targets.base",
    "ContrastTarget": "targets.contrast",
    "DeployedModel": "models.onnx_session",
    "Explainer": "explainer",
    "Explanation": "explanation",
    "ExportError": "errors",
    "FunctionModel": "models.function",
    "GradientError": "errors",
    "IbisaError": "errors",
    "Image": "explainer",
    "ImageError": "errors",
    "ImageModel": "models.base",
    "InputSpec": "models.function",
    "KeypointTarget": "targets.keypoints",
    "Kind": "targets.base",
    "Method": "methods.base",
    "MetricError": "errors",
    "MissingDependencyError": "errors",
    "ModelError": "errors",
    "NonFiniteGradientError": "errors",
    "Objective": "targets.base",
    "OptionError": "errors",
    "Options": "methods.ibisa.options",
    "OutputError": "errors",
    "Overrides": "preprocessing.resolve",
    "PointTarget": "targets.arguments",
    "Prediction": "explainer",
    "Preprocessing": "preprocessing.spec",
    "PreprocessingError": "errors",
    "ProviderError": "errors",
    "RegionTarget": "targets.segmentation",
    "ResultError": "errors",
    "SimilarityTarget": "targets.embedding",
    "Target": "explainer",
    "TargetError": "errors",
    "TargetSpec": "targets.base",
    "TextTarget": "targets.sequence",
    "UnsupportedOperatorError": "errors",
    "ValueTarget": "targets.value",
}

__all__ = [
    "Answer",
    "BestAnchor",
    "BoxTarget",
    "Certificate",
    "ClassTarget",
    "Context",
    "ContrastTarget",
    "DeployedModel",
    "Explainer",
    "Explanation",
    "ExportError",
    "FunctionModel",
    "GradientError",
    "IbisaError",
    "Image",
    "ImageError",
    "ImageModel",
    "InputSpec",
    "KeypointTarget",
    "Kind",
    "Method",
    "MetricError",
    "MissingDependencyError",
    "ModelError",
    "NonFiniteGradientError",
    "Objective",
    "OptionError",
    "Options",
    "OutputError",
    "Overrides",
    "PointTarget",
    "Prediction",
    "Preprocessing",
    "PreprocessingError",
    "ProviderError",
    "RegionTarget",
    "ResultError",
    "SimilarityTarget",
    "Target",
    "TargetError",
    "TargetSpec",
    "TextTarget",
    "UnsupportedOperatorError",
    "ValueTarget",
]
__version__ = "0.1.0"

logging.getLogger(__name__).addHandler(logging.NullHandler())

__getattr__, __dir__ = lazy_names(__name__, _HOMES)

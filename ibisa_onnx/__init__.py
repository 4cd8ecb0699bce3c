"""Which pixels did this very ONNX model need for this very answer?

    import ibisa_onnx as ibisa

    explanation = ibisa.Explainer("model.onnx").explain("img.png")
    explanation.save("out/")

Names are loaded when first asked for, so that importing the package stays quick. Nothing else is
imported here: the command line can answer to Ctrl-C only once this is done.
"""

from __future__ import annotations

TYPE_CHECKING = False  # typing's own would be an import
if TYPE_CHECKING:
    from ibisa_onnx.errors import (
        DeadlineError,
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
    from ibisa_onnx.limits import Limits
    from ibisa_onnx.methods.base import Method
    from ibisa_onnx.methods.ibisa.options import Options
    from ibisa_onnx.models.base import ImageModel
    from ibisa_onnx.models.function import FunctionModel, InputSpec
    from ibisa_onnx.models.onnx_session import DeployedModel
    from ibisa_onnx.models.running import time_limit
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
    "DeadlineError": "errors",
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
    "Limits": "limits",
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
    "time_limit": "models.running",
}

__all__ = [
    "Answer",
    "BestAnchor",
    "BoxTarget",
    "Certificate",
    "ClassTarget",
    "Context",
    "ContrastTarget",
    "DeadlineError",
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
    "Limits",
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
    "time_limit",
]
__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    from ibisa_onnx.imports import lazy_names

    return lazy_names(__name__, _HOMES)[0](name)


def __dir__() -> list[str]:
    return sorted({*_HOMES, *globals()})

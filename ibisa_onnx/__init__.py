"""Which pixels did this very ONNX model need for this very answer?

    import ibisa_onnx as ibisa

    explanation = ibisa.Explainer("model.onnx").explain("img.png")
    explanation.save("out/")

Names are loaded when first asked for, so that importing the package stays quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ibisa_onnx.imports import lazy_names

if TYPE_CHECKING:
    from ibisa_onnx.errors import IbisaError
    from ibisa_onnx.explainer import Explainer, Prediction
    from ibisa_onnx.explanation import Explanation
    from ibisa_onnx.methods.ibisa.optimizer import Options
    from ibisa_onnx.models.function import FunctionModel, InputSpec
    from ibisa_onnx.models.onnx_session import DeployedModel
    from ibisa_onnx.preprocessing.resolve import Overrides
    from ibisa_onnx.preprocessing.spec import Preprocessing

_HOMES = {
    "DeployedModel": "models.onnx_session",
    "Explainer": "explainer",
    "Explanation": "explanation",
    "FunctionModel": "models.function",
    "IbisaError": "errors",
    "InputSpec": "models.function",
    "Options": "methods.ibisa.optimizer",
    "Overrides": "preprocessing.resolve",
    "Prediction": "explainer",
    "Preprocessing": "preprocessing.spec",
}

__all__ = [
    "DeployedModel",
    "Explainer",
    "Explanation",
    "FunctionModel",
    "IbisaError",
    "InputSpec",
    "Options",
    "Overrides",
    "Prediction",
    "Preprocessing",
]
__version__ = "0.1.0"

__getattr__, __dir__ = lazy_names(__name__, _HOMES)

"""Which pixels did this very ONNX model need for this very answer?

    import ibisa_onnx as ibisa

    explanation = ibisa.Explainer("model.onnx").explain("img.png")
    explanation.save("out/")

Names are loaded when first asked for, so that importing the package stays quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ibisa_onnx.errors import IbisaError
    from ibisa_onnx.explainer import Explainer, Prediction
    from ibisa_onnx.explanation import Explanation
    from ibisa_onnx.ibisa import Options
    from ibisa_onnx.model import (
        DeployedModel,
        FunctionModel,
        InputSpec,
        Overrides,
        Preprocessing,
    )

_HOME = {
    "DeployedModel": "model",
    "Explainer": "explainer",
    "Explanation": "explanation",
    "FunctionModel": "model",
    "IbisaError": "errors",
    "InputSpec": "model",
    "Options": "ibisa",
    "Overrides": "model",
    "Prediction": "explainer",
    "Preprocessing": "model",
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


def __getattr__(name: str) -> Any:
    """Load the module that holds `name` when it is first asked for."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)

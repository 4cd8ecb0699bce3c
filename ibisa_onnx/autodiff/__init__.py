"""Reverse-mode differentiation of an ONNX graph.

`differentiate` turns a deployed model into two models: the forward graph, which also hands out the
activations that derivatives need, and a backward graph, which takes them and a cotangent and
returns the gradient. `backward_graph` gives both in one, for whoever wants nothing else. Nothing
here runs a model, and nothing here knows of images or masks.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ibisa_onnx.autodiff.driver import (
        Derivative,
        MissingRule,
        differentiate,
        missing_rules,
    )
    from ibisa_onnx.autodiff.joint import backward_graph

__all__ = ["Derivative", "MissingRule", "backward_graph", "differentiate", "missing_rules"]


def __getattr__(name: str) -> Any:
    """Load the module that holds a public name, and with it `onnx`, when it is first asked for."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = "joint" if name == "backward_graph" else "driver"
    return getattr(import_module(f"{__name__}.{home}"), name)

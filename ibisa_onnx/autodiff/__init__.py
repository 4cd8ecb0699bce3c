"""Reverse-mode differentiation of an ONNX graph.

`differentiate` turns a deployed model into two models: the forward graph, which also hands out the
activations that derivatives need, and a backward graph, which takes them and a cotangent and
returns the gradient. `backward_graph` gives both in one, for whoever wants nothing else. Nothing
here runs a model, and nothing here knows of images or masks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ibisa_onnx.imports import lazy_names

if TYPE_CHECKING:
    from ibisa_onnx.autodiff.driver import Derivative, MissingRule, differentiate, missing_rules
    from ibisa_onnx.autodiff.joint import backward_graph

_HOMES = {
    "Derivative": "driver",
    "MissingRule": "driver",
    "backward_graph": "joint",
    "differentiate": "driver",
    "missing_rules": "driver",
}

__all__ = ["Derivative", "MissingRule", "backward_graph", "differentiate", "missing_rules"]

__getattr__, __dir__ = lazy_names(__name__, _HOMES)

"""Reverse-mode differentiation of an ONNX graph.

`differentiate` turns a deployed model into two models: the forward graph, which also hands out the
activations that derivatives need, and a backward graph, which takes them and a cotangent and
returns the gradient. Nothing here runs a model, and nothing here knows of images or masks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ibisa_onnx.autodiff.driver import (
        Derivative,
        MissingRule,
        differentiate,
        missing_rules,
    )

__all__ = ["Derivative", "MissingRule", "differentiate", "missing_rules"]


def __getattr__(name: str) -> Any:
    """Load the driver, and with it `onnx`, when a public name is first asked for."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from ibisa_onnx.autodiff import driver

    return getattr(driver, name)

"""How a map is made: IBISA, and the methods that it is compared with, one file each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ibisa_onnx.imports import lazy_names

if TYPE_CHECKING:
    from ibisa_onnx.methods.base import Method
    from ibisa_onnx.methods.grad_cam import GradCam
    from ibisa_onnx.methods.iba import Iba
    from ibisa_onnx.methods.ibisa.method import Ibisa
    from ibisa_onnx.methods.ibisa.options import Options
    from ibisa_onnx.methods.occlusion import Occlusion
    from ibisa_onnx.methods.random_map import RandomMap
    from ibisa_onnx.methods.registry import METHODS, MethodSettings, method_named
    from ibisa_onnx.methods.rise import Rise, rise

_HOMES = {
    "GradCam": "grad_cam",
    "Iba": "iba",
    "METHODS": "registry",
    "Method": "base",
    "Occlusion": "occlusion",
    "RandomMap": "random_map",
    "Rise": "rise",
    "MethodSettings": "registry",
    "Ibisa": "ibisa.method",
    "Options": "ibisa.options",
    "method_named": "registry",
    "rise": "rise",
}

__all__ = [
    "METHODS",
    "GradCam",
    "Iba",
    "Ibisa",
    "Method",
    "MethodSettings",
    "Occlusion",
    "Options",
    "RandomMap",
    "Rise",
    "method_named",
    "rise",
]

__getattr__, __dir__ = lazy_names(__name__, _HOMES)

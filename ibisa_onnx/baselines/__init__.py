"""The methods that IBISA is compared with: `Explainer.explain(..., method=GradCam())`."""

from __future__ import annotations

from ibisa_onnx.baselines.choice import METHODS, Settings, method_named
from ibisa_onnx.baselines.grad_cam import GradCam
from ibisa_onnx.baselines.iba import Iba
from ibisa_onnx.baselines.occlusion import Occlusion
from ibisa_onnx.baselines.random_map import RandomMap
from ibisa_onnx.baselines.rise import Rise, rise

__all__ = [
    "METHODS",
    "GradCam",
    "Iba",
    "Occlusion",
    "RandomMap",
    "Rise",
    "Settings",
    "method_named",
    "rise",
]

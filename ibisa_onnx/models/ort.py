"""ONNX Runtime itself: imported when first used, with the names of the providers that matter here.

It collects telemetry unless the environment says otherwise when it is imported, and writes files
for that into the user's caches. Nobody who explains a picture asked for either, so it is turned
off, unless the environment's ORT_DISABLE_TELEMETRY says something else.
"""

from __future__ import annotations

import importlib
import os
from types import ModuleType

from ibisa_onnx.errors import MissingDependencyError

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"
_NO_TELEMETRY = "ORT_DISABLE_TELEMETRY"


def import_onnxruntime() -> ModuleType:
    """Import ONNX Runtime, its telemetry off, or say which extra brings it."""
    os.environ.setdefault(_NO_TELEMETRY, "1")
    try:
        return importlib.import_module("onnxruntime")
    except ImportError as error:
        raise MissingDependencyError(
            "ONNX Runtime cannot be imported "
            f"({error}); pip install 'ibisa-onnx[cpu]', or 'ibisa-onnx[gpu]' for CUDA"
        ) from error

"""Imports ONNX Runtime on first use, and names the execution providers that matter here.

ONNX Runtime collects telemetry unless the environment disables it before the import, and writes
files for it to the user's cache directory. It is disabled here unless ORT_DISABLE_TELEMETRY is
already set.
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
    """Import ONNX Runtime with telemetry disabled, or raise an error that names the extra."""
    os.environ.setdefault(_NO_TELEMETRY, "1")
    try:
        return importlib.import_module("onnxruntime")
    except ImportError as error:
        raise MissingDependencyError(
            "ONNX Runtime cannot be imported "
            f"({error}); pip install 'ibisa-onnx[cpu]', or 'ibisa-onnx[gpu]' for CUDA"
        ) from error

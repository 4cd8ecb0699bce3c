"""Checks whether CUDA runs a node, and loads its libraries."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import importlib.util
import io
import platform
import sys
from dataclasses import dataclass
from types import ModuleType

import numpy as np

from ibisa_onnx.errors import MissingDependencyError
from ibisa_onnx.models.ort import CUDA, import_onnxruntime
from ibisa_onnx.models.ort_messages import essence


@dataclass(frozen=True)
class CudaCheck:
    """Whether a node of a tiny model ran on CUDA, and why not."""

    ran: bool
    reason: str


def cuda_runs_a_node() -> CudaCheck:
    """Run one matrix product on CUDA with CPU fallback disabled, and return whether it ran."""
    try:
        runtime = import_onnxruntime()
    except MissingDependencyError as error:
        return CudaCheck(False, str(error))
    if CUDA not in runtime.get_available_providers():
        return CudaCheck(False, "this build of ONNX Runtime has no CUDA provider")
    complaint = preload_cuda_libraries()
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    one = np.ones((1, 1), np.float32)
    try:
        session = runtime.InferenceSession(
            _one_product(), options, providers=[CUDA], enable_fallback=0
        )
        (result,) = session.run(None, {"x": one})
    except Exception as error:
        return CudaCheck(False, complaint or _no_driver() or essence(error))
    if CUDA not in session.get_providers():
        return CudaCheck(False, complaint or "the provider did not start")
    return CudaCheck(bool(result[0, 0] == 1), "a matrix product ran on it")


def _no_driver() -> str:
    """Return a message if NVIDIA's driver is missing, which ONNX Runtime only logs."""
    if platform.system() != "Linux":
        return ""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        return f"NVIDIA's driver is not installed ({error})"
    return ""


def _one_product() -> bytes:
    """Return a model with a single node, y = x x, that cannot be folded."""
    from onnx import TensorProto, helper

    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 1]) for n in "xy")
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "x"], ["y"])], "probe", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)
    return bytes(model.SerializeToString())


def preload_cuda_libraries() -> str:
    """Load the CUDA libraries that ONNX Runtime requires.

    From NVIDIA's pip packages, which the extra `gpu` installs and torch from PyPI shares, else from
    the system. Some builds of torch contain the libraries: if any is missing and torch is
    installed, it is imported for them.

    Returns the first message about a library that could not be loaded, or an empty string. Only
    whether the provider then starts is decisive.
    """
    runtime = import_onnxruntime()
    if not hasattr(runtime, "preload_dlls"):
        return ""
    complaint = _preload(runtime)
    return _preload(runtime) if complaint and _load_torch() else complaint


def _preload(runtime: ModuleType) -> str:
    """Load the libraries, and return the first line that ONNX Runtime prints about it."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        runtime.preload_dlls()
    return next(iter(printed.getvalue().splitlines()), "")


def _load_torch() -> bool:
    """Import torch if it is installed and not yet loaded; return whether it was loaded now."""
    if "torch" in sys.modules or importlib.util.find_spec("torch") is None:
        return False
    with contextlib.suppress(ImportError, OSError):  # a broken installation cannot help
        importlib.import_module("torch")
    return "torch" in sys.modules

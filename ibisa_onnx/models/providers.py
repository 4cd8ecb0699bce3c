"""Execution providers: their names, which are there, and whether they truly came up.

Strict: what was asked for and is not there is an error, never a quiet fall to the CPU. With none
asked for, CUDA where it truly runs a node, else the CPU.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import sys
from collections.abc import Iterable, Sequence
from types import ModuleType

from ibisa_onnx.errors import MissingDependencyError, ProviderError

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"
_SUFFIX = "ExecutionProvider"
_ALIASES = {"directml": "dml", "trt": "tensorrt"}
_HOW_TO_GET = {
    CUDA: "pip install onnxruntime-gpu in place of onnxruntime",
    TENSORRT: "pip install onnxruntime-gpu in place of onnxruntime, and TensorRT",
    "OpenVINOExecutionProvider": "pip install onnxruntime-openvino in place of onnxruntime",
    "DmlExecutionProvider": "pip install onnxruntime-directml in place of onnxruntime",
    "CoreMLExecutionProvider": "use onnxruntime on macOS",
}


def import_onnxruntime() -> ModuleType:
    """Import ONNX Runtime, or say which extra brings it."""
    try:
        return importlib.import_module("onnxruntime")
    except ImportError as error:
        raise MissingDependencyError(
            "ONNX Runtime cannot be imported "
            f"({error}); pip install 'ibisa-onnx[cpu]', or 'ibisa-onnx[gpu]' for CUDA"
        ) from error


def short_name(provider: str) -> str:
    """Return the short form of a provider's full name: `CUDAExecutionProvider` is `cuda`."""
    return provider.removesuffix(_SUFFIX).lower()


def full_name(provider: str, known: Iterable[str]) -> str:
    """Return ONNX Runtime's name for a short or full name, of any case.

    Raises
    ------
    ProviderError
        ONNX Runtime knows no such provider.
    """
    wanted = short_name(provider.removesuffix(_SUFFIX.lower()))
    wanted = _ALIASES.get(wanted, wanted)
    by_short = {short_name(name): name for name in known}
    if wanted not in by_short:
        names = ", ".join(sorted(by_short))
        raise ProviderError(f"there is no execution provider {provider!r}; known are: {names}")
    return by_short[wanted]


def resolve_providers(requested: Sequence[str]) -> list[str]:
    """Turn what was asked for into the list that a session is opened with.

    Parameters
    ----------
    requested
        Short (`cuda`) or full (`CUDAExecutionProvider`) names, highest priority first; empty: CUDA
        where it truly runs a node, else the CPU.

    Returns
    -------
    list of str
        Full names. The CPU is always last, for the nodes that no other provider takes.

    Raises
    ------
    ProviderError
        A provider that was asked for is unknown or not in this build of ONNX Runtime.
    MissingDependencyError
        There is no ONNX Runtime.
    """
    runtime = import_onnxruntime()
    available = runtime.get_available_providers()
    if not requested:
        from ibisa_onnx.models.environment import cuda_runs_a_node

        return [CUDA, CPU] if CUDA in available and cuda_runs_a_node().ran else [CPU]
    known = [*runtime.get_all_providers(), *available]
    names = list(dict.fromkeys(full_name(name, known) for name in requested))
    for name in names:
        if name not in available:
            raise ProviderError(_not_in_this_build(name, available))
    if TENSORRT in names and CUDA not in names and CUDA in available:
        names.insert(names.index(TENSORRT) + 1, CUDA)  # for the nodes that TensorRT does not take
    if CUDA in names or TENSORRT in names:
        preload_cuda_libraries()
    return names if CPU in names else [*names, CPU]


def check_providers(requested: Sequence[str], came_up: Sequence[str]) -> None:
    """Raise `ProviderError` where a provider that was asked for is not among those in use."""
    known = [*import_onnxruntime().get_all_providers(), *came_up]
    for name in requested:
        if full_name(name, known) not in came_up:
            raise ProviderError(
                f"{name} was asked for and did not come up (in use: {', '.join(came_up)}); "
                "its libraries or its device are missing: `ibisa-onnx doctor` says more"
            )


def preload_cuda_libraries() -> str:
    """Load the CUDA libraries that ONNX Runtime needs from where pip puts them.

    Those of NVIDIA's packages, which the extra `gpu` brings and torch from PyPI shares, else the
    system's. Some builds of torch carry libraries inside themselves: where any is missing and torch
    is installed, it is imported for them.

    Returns the first complaint about a library that could not be loaded, or nothing. Only whether
    the provider comes up afterwards is decisive.
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
    """Import torch where it is installed and not there yet; return whether that was done."""
    if "torch" in sys.modules or importlib.util.find_spec("torch") is None:
        return False
    with contextlib.suppress(ImportError, OSError):  # a broken one has nothing to give
        importlib.import_module("torch")
    return "torch" in sys.modules


def _not_in_this_build(name: str, available: Sequence[str]) -> str:
    """Say that a provider is not in this build, what is, and how to get it."""
    there = ", ".join(short_name(each) for each in available)
    hint = _HOW_TO_GET.get(name, "install the build of ONNX Runtime that has it")
    return f"{name} is not in this build of ONNX Runtime, which has: {there}; {hint}"

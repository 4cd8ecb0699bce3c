"""Execution providers: their names, which are there, and whether they truly came up.

Strict: what was asked for and is not there is an error, never a quiet fall to the CPU. With none
asked for, CUDA where it truly runs a node, else the CPU.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ibisa_onnx.errors import ProviderError
from ibisa_onnx.models.cuda import cuda_runs_a_node, preload_cuda_libraries
from ibisa_onnx.models.ort import CPU, CUDA, TENSORRT, import_onnxruntime

_SUFFIX = "ExecutionProvider"
_ALIASES = {"directml": "dml", "trt": "tensorrt"}
_HOW_TO_GET = {
    CUDA: "pip install onnxruntime-gpu in place of onnxruntime",
    TENSORRT: "pip install onnxruntime-gpu in place of onnxruntime, and TensorRT",
    "OpenVINOExecutionProvider": "pip install onnxruntime-openvino in place of onnxruntime",
    "DmlExecutionProvider": "pip install onnxruntime-directml in place of onnxruntime",
    "CoreMLExecutionProvider": "use onnxruntime on macOS",
}


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


def _not_in_this_build(name: str, available: Sequence[str]) -> str:
    """Say that a provider is not in this build, what is, and how to get it."""
    there = ", ".join(short_name(each) for each in available)
    hint = _HOW_TO_GET.get(name, "install the build of ONNX Runtime that has it")
    return f"{name} is not in this build of ONNX Runtime, which has: {there}; {hint}"

"""Execution providers: their names, and whether they are available and started.

Strict: a requested provider that is not available is an error, never a silent fallback to the CPU.
If none is requested, CUDA is used if it runs a node, else the CPU.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ibisa_onnx.checks import check_type, shown
from ibisa_onnx.errors import ProviderError
from ibisa_onnx.models.cuda import cuda_runs_a_node, preload_cuda_libraries
from ibisa_onnx.models.ort import CPU, CUDA, TENSORRT, import_onnxruntime

if TYPE_CHECKING:
    import onnxruntime

_SUFFIX = "ExecutionProvider"
_ALIASES = {"directml": "dml", "trt": "tensorrt"}
_WITH_CUDA = "if this machine has a CUDA GPU"
OPENVINO = "OpenVINOExecutionProvider"
_HOW_TO_GET = {
    CUDA: f"{_WITH_CUDA}: pip uninstall onnxruntime, then pip install 'ibisa-onnx[gpu]'",
    TENSORRT: (
        f"{_WITH_CUDA} and TensorRT: pip uninstall onnxruntime, then pip install 'ibisa-onnx[gpu]'"
    ),
    OPENVINO: "pip uninstall onnxruntime, then pip install onnxruntime-openvino",
    "DmlExecutionProvider": "pip uninstall onnxruntime, then pip install onnxruntime-directml",
    "CoreMLExecutionProvider": "use onnxruntime on macOS",
}


Provider = str | tuple[str, Mapping[str, Any]]
"""A provider's short or full name, alone or with its options."""


def with_options(providers: Sequence[Provider]) -> tuple[list[str], dict[str, dict[str, str]]]:
    """Return the names of providers, and the options of each that has some, by its full name.

    Raises
    ------
    ProviderError
        An entry is neither a name nor a name with its options, or has an unknown name.
    """
    names: list[str] = []
    options: dict[str, dict[str, str]] = {}
    for each in providers:
        name, given = each if isinstance(each, tuple) and len(each) == 2 else (each, {})
        if not isinstance(name, str) or not isinstance(given, Mapping):
            raise ProviderError(f"a provider is {shown(each)}; pass its name, or (name, options)")
        names.append(name)
        if given:
            known = import_onnxruntime().get_all_providers()
            options[full_name(name, known)] = {key: str(value) for key, value in given.items()}
    return names, options


def short_name(provider: str) -> str:
    """Return the short form of a provider's name: "cuda" for "CUDAExecutionProvider"."""
    return provider.removesuffix(_SUFFIX).lower()


def full_name(provider: str, known: Iterable[str]) -> str:
    """Return ONNX Runtime's name for a provider's short or full name, in any case.

    Raises
    ------
    ProviderError
        ONNX Runtime has no such provider.
    """
    check_type("a provider", provider, str, "its name", ProviderError)
    wanted = short_name(provider.removesuffix(_SUFFIX.lower()))
    wanted = _ALIASES.get(wanted, wanted)
    by_short = {short_name(name): name for name in known}
    if wanted not in by_short:
        names = ", ".join(sorted(by_short))
        raise ProviderError(f"unknown execution provider {provider!r}; choose from: {names}")
    return by_short[wanted]


def resolve_providers(requested: Sequence[str]) -> list[str]:
    """Return the list of providers to open a session with.

    Parameters
    ----------
    requested
        Short ("cuda") or full ("CUDAExecutionProvider") names, highest priority first; empty: CUDA
        if it runs a node, else the CPU.

    Returns
    -------
    list of str
        Full names. The CPU is always last, for nodes that no other provider supports.

    Raises
    ------
    ProviderError
        A requested provider is unknown or not in this build of ONNX Runtime.
    MissingDependencyError
        ONNX Runtime is not installed.
    """
    runtime = import_onnxruntime()
    available = runtime.get_available_providers()
    requested = requested or default_providers()
    known = [*runtime.get_all_providers(), *available]
    names = list(dict.fromkeys(full_name(name, known) for name in requested))
    for name in names:
        if name not in available:
            raise ProviderError(_not_in_this_build(name, available))
    if TENSORRT in names and CUDA not in names and CUDA in available:
        names.insert(names.index(TENSORRT) + 1, CUDA)  # for nodes that TensorRT does not support
    if CUDA in names or TENSORRT in names:
        preload_cuda_libraries()
    return names if CPU in names else [*names, CPU]


def default_providers() -> list[str]:
    """Return what is used if nothing is requested: CUDA if it runs a node, and the CPU."""
    there = CUDA in import_onnxruntime().get_available_providers()
    return [CUDA, CPU] if there and cuda_runs_a_node().ran else [CPU]


def check_providers(requested: Sequence[str], came_up: Sequence[str]) -> None:
    """Raise `ProviderError` if a requested provider is not in use."""
    known = [*import_onnxruntime().get_all_providers(), *came_up]
    for name in requested:
        if full_name(name, known) not in came_up:
            raise ProviderError(
                f"requested provider {name} did not start (in use: {', '.join(came_up)}); "
                "its libraries or device are missing: run `ibisa-onnx doctor` for details"
            )


def check_unreported(
    session: onnxruntime.InferenceSession, options: Mapping[str, Mapping[str, str]]
) -> None:
    """Raise `ProviderError` for options that an open session reports itself, or cannot have."""
    reported = session.get_provider_options()
    for name in options:
        if reported.get(name) or name not in reported:
            why = "reports its options" if name in reported else "does not run on it"
            raise ProviderError(
                f"providers has options of {short_name(name)}, but the open session {why}; leave "
                "them out"
            )


def _not_in_this_build(name: str, available: Sequence[str]) -> str:
    """Return a message with the providers in this build, and how to get the missing one."""
    there = ", ".join(short_name(each) for each in available)
    hint = _HOW_TO_GET.get(name, "install a build of ONNX Runtime that includes it")
    return f"{name} is not in this build of ONNX Runtime, which has: {there}; {hint}"

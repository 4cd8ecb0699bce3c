"""What runs models here: builds of ONNX Runtime and of OpenCV, providers, versions. For `doctor`.

Only looks; installs and changes nothing.
"""

from __future__ import annotations

import ctypes
import importlib
import platform
from dataclasses import dataclass
from importlib import metadata

import numpy as np

from ibisa_onnx.errors import MissingDependencyError
from ibisa_onnx.models.onnx_file import essence
from ibisa_onnx.models.providers import CUDA, import_onnxruntime, preload_cuda_libraries

_PACKAGES = ("ibisa-onnx", "onnx", "torch", "numpy")
_PREFIXES = ("onnxruntime", "opencv-")


@dataclass(frozen=True)
class CudaCheck:
    """Whether a node of a tiny model truly ran on CUDA, and if not, why."""

    ran: bool
    reason: str


@dataclass(frozen=True)
class RuntimeReport:
    """What is installed and what works.

    Attributes
    ----------
    builds
        Installed distributions that provide `onnxruntime`, with their versions.
    clash
        Several of them are installed and overwrite each other.
    opencv
        Installed distributions that provide `cv2`, with their versions.
    opencv_clash
        Several of them are installed and overwrite each other.
    opencv_error
        Why OpenCV cannot be imported, or None.
    error
        Why ONNX Runtime cannot be imported, or None.
    providers
        Full names of the execution providers in the build that is imported.
    cuda
        Whether CUDA truly runs a node.
    versions
        Versions of Python and of the packages that matter, by name.
    """

    builds: dict[str, str]
    clash: bool
    opencv: dict[str, str]
    opencv_clash: bool
    opencv_error: str | None
    error: str | None
    providers: tuple[str, ...]
    cuda: CudaCheck
    versions: dict[str, str]


def runtime_report() -> RuntimeReport:
    """Look at what is installed, and try CUDA where the build has it."""
    builds, opencv = installed_builds("onnxruntime"), installed_builds("cv2")
    try:
        providers = tuple(import_onnxruntime().get_available_providers())
        error = None
    except MissingDependencyError as missing:
        providers, error = (), str(missing)
    return RuntimeReport(
        builds=builds,
        clash=len(builds) > 1,
        opencv=opencv,
        opencv_clash=len(opencv) > 1,
        opencv_error=_opencv_error(),
        error=error,
        providers=providers,
        cuda=cuda_runs_a_node(),
        versions=versions(),
    )


def installed_builds(package: str) -> dict[str, str]:
    """Return the distributions that install a package of this name, and their versions."""
    names = metadata.packages_distributions().get(package, [])
    return {name: metadata.version(name) for name in sorted(set(names))}


def _opencv_error() -> str | None:
    """Say why OpenCV cannot be imported; a build for a display may lack its libraries."""
    try:
        importlib.import_module("cv2")
    except ImportError as error:
        return f"OpenCV cannot be imported ({error}); pip install opencv-python-headless"
    return None


def versions() -> dict[str, str]:
    """Return the versions of Python and of the installed packages that an explanation rests on."""
    found = {"python": platform.python_version()}
    for distribution in metadata.distributions():
        name = str(distribution.metadata["Name"] or "").lower()
        if name in _PACKAGES or name.startswith(_PREFIXES):
            found[name] = distribution.version
    return found


def cuda_runs_a_node() -> CudaCheck:
    """Run one matrix product on CUDA with the CPU forbidden, and say whether it ran."""
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
        return CudaCheck(False, complaint or "the provider did not come up")
    return CudaCheck(bool(result[0, 0] == 1), "a matrix product ran on it")


def _no_driver() -> str:
    """Say that NVIDIA's driver is missing, which no package brings and ONNX Runtime only logs."""
    if platform.system() != "Linux":
        return ""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        return f"NVIDIA's driver is not here ({error})"
    return ""


def _one_product() -> bytes:
    """Return a model of a single node, y = x x, with nothing to fold away."""
    from onnx import TensorProto, helper

    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 1]) for n in "xy")
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "x"], ["y"])], "probe", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)
    return bytes(model.SerializeToString())

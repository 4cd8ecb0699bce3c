"""The runtime environment: builds of ONNX Runtime and OpenCV, providers, versions. For `doctor`.

Only inspects; installs and changes nothing.
"""

from __future__ import annotations

import importlib
import platform
from dataclasses import dataclass
from importlib import metadata

from ibisa_onnx.errors import MissingDependencyError
from ibisa_onnx.models.cuda import CudaCheck, cuda_runs_a_node
from ibisa_onnx.models.ort import import_onnxruntime

_PACKAGES = ("ibisa-onnx", "onnx", "torch", "numpy", "pillow")
_PREFIXES = ("onnxruntime", "opencv-")


@dataclass(frozen=True)
class RuntimeReport:
    """What is installed and what works.

    Attributes
    ----------
    builds
        Installed distributions that provide `onnxruntime`, with their versions.
    clash
        Whether several of them are installed and overwrite each other.
    opencv
        Installed distributions that provide `cv2`, with their versions.
    opencv_clash
        Whether several of them are installed and overwrite each other.
    opencv_error
        Why OpenCV cannot be imported, or None.
    error
        Why ONNX Runtime cannot be imported, or None.
    providers
        Full names of the execution providers in the imported build.
    cuda
        Whether CUDA runs a node.
    versions
        Versions of Python and of the relevant packages, by name.
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
    """Inspect what is installed, and try CUDA if the build has it."""
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
    """Return the distributions that install a package, with their versions."""
    names = metadata.packages_distributions().get(package, [])
    return {name: metadata.version(name) for name in sorted(set(names))}


def _opencv_error() -> str | None:
    """Return why OpenCV cannot be imported; builds with a GUI may lack system libraries."""
    try:
        importlib.import_module("cv2")
    except ImportError as error:
        return f"OpenCV cannot be imported ({error}); pip install opencv-python-headless"
    return None


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that results depend on."""
    found = {"python": platform.python_version()}
    for distribution in metadata.distributions():
        name = str(distribution.metadata["Name"] or "").lower()
        if name in _PACKAGES or name.startswith(_PREFIXES):
            found[name] = distribution.version
    return found

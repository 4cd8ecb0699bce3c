"""What `doctor` reports, and that nothing heavy loads before it is needed."""

from __future__ import annotations

import ctypes
import importlib.machinery
import importlib.util
import platform
import subprocess
import sys
import types
from importlib import metadata

import onnxruntime
import pytest

from ibisa_onnx.errors import MissingDependencyError, ProviderError
from ibisa_onnx.models.cuda import cuda_runs_a_node, preload_cuda_libraries
from ibisa_onnx.models.environment import runtime_report
from ibisa_onnx.models.onnx_session import DeployedModel
from ibisa_onnx.models.ort import CUDA
from ibisa_onnx.models.providers import full_name, resolve_providers, short_name


def test_the_report_names_the_build_in_use():
    report = runtime_report()
    assert report.builds
    assert set(report.builds.values()) >= {onnxruntime.__version__}
    assert report.clash == (len(report.builds) > 1)
    assert report.opencv
    assert report.opencv_clash == (len(report.opencv) > 1)
    assert report.providers == tuple(onnxruntime.get_available_providers())
    assert report.versions["onnx"] == metadata.version("onnx")
    assert report.versions["python"].startswith("3.")
    assert report.error is None


def test_two_builds_clash(monkeypatch):
    both = {
        "onnxruntime": ["onnxruntime-gpu", "onnxruntime", "onnxruntime"],
        "cv2": ["opencv-python-headless", "opencv-python"],
    }
    monkeypatch.setattr(metadata, "packages_distributions", lambda: both)
    monkeypatch.setattr(metadata, "version", lambda name: "1.0" if "gpu" in name else "2.0")
    report = runtime_report()
    assert report.builds == {"onnxruntime": "2.0", "onnxruntime-gpu": "1.0"}
    assert report.clash
    assert report.opencv == {"opencv-python": "2.0", "opencv-python-headless": "2.0"}
    assert report.opencv_clash


def test_without_onnxruntime_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingDependencyError, match=r"ibisa-onnx\[cpu\].*ibisa-onnx\[gpu\]"):
        resolve_providers([])
    report = runtime_report()
    assert report.providers == ()
    assert "ibisa-onnx[cpu]" in report.error
    assert not report.cuda.ran


def test_without_opencv_the_package_is_named(monkeypatch):
    assert runtime_report().opencv_error is None
    monkeypatch.setitem(sys.modules, "cv2", None)
    assert "pip install opencv-python-headless" in runtime_report().opencv_error


@pytest.mark.cpu_provider("the default is another")
def test_cuda_on_a_build_without_it():
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this build of ONNX Runtime has CUDA")
    check = cuda_runs_a_node()
    assert not check.ran
    assert "no CUDA provider" in check.reason
    assert resolve_providers([]) == ["CPUExecutionProvider"]


def test_cuda_without_a_driver(monkeypatch):
    def refuse(name, *_, **__):
        raise OSError(f"{name}: no such file")

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA])
    monkeypatch.setattr(onnxruntime, "InferenceSession", refuse)
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None)
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setattr(ctypes, "CDLL", refuse)
    check = cuda_runs_a_node()
    assert not check.ran
    assert check.reason == "NVIDIA's driver is not installed (libcuda.so.1: no such file)"


@pytest.mark.cuda
def test_cuda_where_it_is(mean_model):
    if not cuda_runs_a_node().ran:
        pytest.skip(cuda_runs_a_node().reason)
    assert resolve_providers([])[0] == "CUDAExecutionProvider"
    model = DeployedModel.open(mean_model().SerializeToString(), providers=["cuda"])
    assert model.providers[0] == "CUDAExecutionProvider"


@pytest.mark.parametrize(
    ("given", "full"),
    [
        ("cuda", "CUDAExecutionProvider"),
        ("TensorRT", "TensorrtExecutionProvider"),
        ("openvino", "OpenVINOExecutionProvider"),
        ("dml", "DmlExecutionProvider"),
        ("directml", "DmlExecutionProvider"),
        ("coreml", "CoreMLExecutionProvider"),
        ("cpu", "CPUExecutionProvider"),
        ("CUDAExecutionProvider", "CUDAExecutionProvider"),
        ("cudaexecutionprovider", "CUDAExecutionProvider"),
    ],
)
def test_short_and_full_names(given, full):
    assert full_name(given, onnxruntime.get_all_providers()) == full
    assert full_name(short_name(full), onnxruntime.get_all_providers()) == full


def test_the_order_asked_for_is_kept_and_the_cpu_comes_last(monkeypatch):
    there = ["OpenVINOExecutionProvider", "DmlExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: there)
    assert resolve_providers(["dml", "openvino", "dml"]) == [there[1], there[0], there[2]]
    assert resolve_providers(["cpu"]) == ["CPUExecutionProvider"]
    with pytest.raises(ProviderError, match="has: openvino, dml, cpu"):
        resolve_providers(["dml", "cuda"])


def test_importing_the_package_loads_nothing_heavy():
    code = (
        "import sys, ibisa_onnx as m; assert m.__all__;"
        "print([x for x in ('torch', 'cv2', 'onnx', 'onnxruntime', 'numpy') if x in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_is_there():
    import ibisa_onnx as package
    import ibisa_onnx.errors

    errors = {name for name in vars(package.errors) if name.endswith("Error")}
    assert errors <= set(package.__all__) <= set(dir(package))
    for name in package.__all__:
        assert getattr(package, name) is not None
    with pytest.raises(AttributeError, match="nothing"):
        package.nothing  # noqa: B018


@pytest.fixture
def preloading(monkeypatch):
    """Let `preload_dlls` print the given lines, call after call; return the imports of torch."""
    real, asked = importlib.import_module, []

    def import_module(name):
        if name != "torch":
            return real(name)
        asked.append(name)
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))

    def set_(*lines, torch="absent"):
        said = iter(lines)
        monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: sys.stdout.write(next(said)))
        spec = None if torch == "absent" else importlib.machinery.ModuleSpec("torch", None)
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
        if torch != "loaded":
            monkeypatch.delitem(sys.modules, "torch", raising=False)
        monkeypatch.setattr(importlib, "import_module", import_module)
        return asked

    return set_


def test_torch_is_not_loaded_where_pip_brought_the_cuda_libraries(preloading):
    asked = preloading("", torch="installed")
    assert preload_cuda_libraries() == ""
    assert asked == []


def test_an_installed_torch_is_asked_for_the_cuda_libraries_that_are_missing(preloading):
    asked = preloading("no libcudart", "", torch="installed")
    assert preload_cuda_libraries() == ""
    assert asked == ["torch"]


@pytest.mark.parametrize("torch", ["absent", "loaded"])
def test_missing_cuda_libraries_are_named_where_torch_cannot_help(preloading, torch):
    asked = preloading("no libcudart\nread the docs", torch=torch)
    assert preload_cuda_libraries() == "no libcudart"
    assert asked == []

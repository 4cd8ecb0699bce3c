"""Fixtures that every test may use."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from ibisa_onnx.commands import main
from ibisa_onnx.models import providers

if TYPE_CHECKING:
    import torch


PROVIDER = os.environ.get("IBISA_TEST_PROVIDER")
"""The execution provider that tests use unless they request one; None: as everyone's default."""

if PROVIDER:
    providers.default_providers = lambda: [PROVIDER, "cpu"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what only the CPU provider does, with the mark's reason, when another one is tested."""
    for item in items:
        mark = item.get_closest_marker("cpu_provider")
        if PROVIDER and mark is not None:
            item.add_marker(pytest.mark.skip(reason=f"with {PROVIDER}, {mark.args[0]}"))


@pytest.fixture(autouse=True)
def _no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is kept from test to test, nor in the home of whoever runs them."""
    monkeypatch.setenv("IBISA_ONNX_CACHE", "off")


@pytest.fixture(scope="session")
def assets() -> Path:
    """The folder of real models and photographs, or a skip that says why."""
    folder = os.environ.get("IBISA_ASSETS")
    if not folder or not Path(folder).is_dir():
        pytest.skip("IBISA_ASSETS does not point to the real models and photographs")
    return Path(folder)


@pytest.fixture(scope="session")
def torch_smooth() -> Callable[[torch.Tensor, float], torch.Tensor]:
    """A Gaussian over a mirrored float64 field [..., h, w], as torch would write and derive it."""
    import torch

    def convolve(field: torch.Tensor, sigma: float) -> torch.Tensor:
        reach = math.ceil(8 * sigma)
        offsets = torch.arange(-reach, reach + 1, dtype=torch.float64)
        weights = torch.exp(-(offsets**2) / (2 * sigma**2))
        for axis in (-2, -1):
            places = np.pad(np.arange(field.shape[axis]), reach, mode="symmetric")
            mirrored = field.index_select(axis, torch.from_numpy(places))
            field = mirrored.unfold(axis, len(offsets), 1) @ weights / weights.sum()
        return field

    return convolve


@dataclass(frozen=True)
class Result:
    """What a command left behind."""

    code: int
    out: str
    err: str


@pytest.fixture
def cli(capsys, monkeypatch, tmp_path):
    """Run a command in an empty folder: `cli("run", "m.onnx", ...)` gives code, out and err."""
    monkeypatch.chdir(tmp_path)

    def run(*args: object) -> Result:
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_:
            main([str(arg) for arg in args])
        out, err = capsys.readouterr()
        return Result(int(exit_.value.code), out, err)

    return run


ModelMaker = Callable[..., onnx.ModelProto]


def _mean_model(
    shape: tuple[Any, ...] = ("n", 3, 5, 6),
    dtype: int = TensorProto.FLOAT,
    layout: str = "NCHW",
    metadata: dict[str, str] | None = None,
    opset: int = 13,
) -> onnx.ModelProto:
    """y [N, C] = mean of the image over rows and columns, in float32."""
    axes = [2, 3] if layout == "NCHW" else [1, 2]
    channels = shape[1] if layout == "NCHW" else shape[3]
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["image"], ["f"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMean", ["f"], ["y"], axes=axes, keepdims=0),
        ],
        "mean",
        [helper.make_tensor_value_info("image", dtype, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [shape[0], channels])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    helper.set_model_props(model, metadata or {})
    return model


def _linear_model(
    side: int = 4, classes: int = 5, batch: Any = "n", rows: int = 0
) -> onnx.ModelProto:
    """y [N, classes] = image flattened [N or `rows`, -1] times a known matrix."""
    size = 3 * side * side
    weights = np.arange(size * classes, dtype=np.float32).reshape(size, classes) / size
    graph = helper.make_graph(
        [
            helper.make_node("Reshape", ["image", "flat"], ["v"]),
            helper.make_node("MatMul", ["v", "w"], ["y"]),
        ],
        "linear",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 3, side, side])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, classes])],
        [
            helper.make_tensor("flat", TensorProto.INT64, [2], [rows, size]),
            onnx.numpy_helper.from_array(weights, "w"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


@pytest.fixture(scope="session")
def mean_model() -> ModelMaker:
    return _mean_model


@pytest.fixture(scope="session")
def linear_model() -> ModelMaker:
    return _linear_model


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)

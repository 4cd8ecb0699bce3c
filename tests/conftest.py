"""Fixtures that every test may use."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from ibisa_onnx.commands import main


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

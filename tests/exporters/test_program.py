"""A program of `torch.export` as a source."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

pytest.importorskip("onnxscript", reason="torch writes ONNX by onnxscript")

EXPORT = ("export", "net.pt2", "--trust")


def write(path: Path, *, batch: int | None = None, training: bool = False, inputs: int = 1) -> Path:
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm, self.drop = nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Dropout()

        def forward(self, x):
            return self.drop(self.norm(self.conv(x))).mean((2, 3))

    class Two(Net):
        def forward(self, x, y):
            return super().forward(x + y)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = (Net, Two)[inputs - 1]().train(training)
    example = (torch.randn(batch or 2, 3, 16, 16),) * inputs
    shapes = {} if batch else {0: torch.export.Dim("n", min=1, max=32)}
    program = torch.export.export(net, example, dynamic_shapes=(shapes,) * inputs)
    torch.export.save(program, path)
    return path


def test_a_program(cli, tmp_path):
    write(tmp_path / "net.pt2")
    result = cli(*EXPORT, "--preprocess", "unit", "--json", "--surrogate")
    assert result.code == 0, result.err
    said = json.loads(result.out)
    assert said["files"] == ["net.onnx", "net.surrogate.onnx"]
    assert max(each["relative"] for each in said["verification"]) < 1e-5


def test_half_of_a_program(cli, tmp_path):
    write(tmp_path / "net.pt2")
    result = cli(*EXPORT, "--preprocess", "unit", "--json", "--half")
    assert result.code == 0, result.err


@pytest.mark.parametrize("batch", [1, 4])
def test_a_program_of_so_many_images(cli, tmp_path, batch):
    write(tmp_path / "net.pt2", batch=batch)
    for flags in ([], ["--fixed-batch", "2"]):
        result = cli(*EXPORT, *flags)
        assert result.code == 1
        assert f"pass --fixed-batch {batch}" in result.err
    words = (*EXPORT, "--fixed-batch", str(batch))
    assert "omit --surrogate" in cli(*words, "--surrogate").err
    assert cli(*words, "-q").err == ""


def test_an_earlier_opset_of_a_program(cli, tmp_path):
    write(tmp_path / "net.pt2")
    result = cli(
        *EXPORT,
        "--preprocess",
        "unit",
        "--resize",
        "stretch",
        "--opset",
        "13",
    )
    assert (result.code, result.err) == (0, "")


@pytest.mark.parametrize("dtype", ["uint8", "float16"])
def test_a_program_of_another_dtype(cli, tmp_path, dtype):
    class Any(nn.Module):
        def forward(self, x):
            return x.float().mean((2, 3))

    example = torch.zeros(2, 3, 16, 16, dtype=getattr(torch, dtype))
    torch.export.save(torch.export.export(Any(), (example,)), tmp_path / "net.pt2")
    result = cli(*EXPORT)
    assert result.code == 1
    assert f"has a {dtype} input; export a program with a float32 input" in result.err


@pytest.mark.parametrize(
    ("options", "flags", "said"),
    [
        ({"training": True}, [], "training mode"),
        ({"inputs": 2}, [], "export a program with one input [N, C, H, W]"),
        ({}, ["--size", "20"], "omit --size"),
        ({}, ["--weights", "none"], "contains its own weights"),
        ({}, ["-o", "net.pt2"], "is an input and is not overwritten"),
    ],
)
def test_programs_that_are_refused(cli, tmp_path, options, flags, said):
    write(tmp_path / "net.pt2", **options)
    content = (tmp_path / "net.pt2").read_bytes()
    result = cli(*EXPORT, *flags)
    assert result.code == (2 if "-o" in flags else 1)
    assert said in result.err
    assert (tmp_path / "net.pt2").read_bytes() == content
    assert [each.name for each in tmp_path.iterdir()] == ["net.pt2"]

"""Networks as a user would have them: functions in a file of Python."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

_MODULE = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, factor=1.0):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, 2, 1)
        self.norm = nn.BatchNorm2d(8)
        self.drop = nn.Dropout()
        self.head = nn.Linear(8, 6)
        self.factor = factor

    def forward(self, x):
        x = torch.relu(self.norm(self.conv(x)))
        scores = self.head(self.drop(x.mean((2, 3))))
        exporting = torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export()
        return scores * self.factor if exporting else scores


def net():
    return Net()


net.input_size = 32
net.labels = ["ant", "bee", "cat", "dog", "elk", "fox"]
net.preprocessing = {"preset": "tf", "size": [32, 32], "resize": "stretch"}


def silent():
    return Net()


def wrong():
    return Net(1.01)


def broken():
    raise ValueError("no data here\\nsecond line")


def number():
    return 7


def leaves():
    print("a word on the way")
    raise SystemExit(7)


def talks():
    print("a word on the way")
    return Net()


def sized():
    return Net()


sized.input_size = "abc"


def labelled():
    return Net()


labelled.labels = 7


class Pair(nn.Module):
    def forward(self, x):
        return x.mean((2, 3)), x


def pair():
    return Pair()


class Noisy(Net):
    def forward(self, x):
        return super().forward(nn.functional.dropout(x))


class Two(Net):
    def forward(self, x, y):
        return super().forward(x) + y


class Alone(Net):
    def forward(self, x):
        return super().forward(x.view(1, 3, 32, 32))


class Scaled(Net):
    def forward(self, x):
        return super().forward(x / x.std((1, 2, 3), keepdim=True))


made = Net()


def lost():
    net = Net()
    nn.init.constant_(net.head.bias, torch.nan)
    return net
"""


@pytest.fixture
def module(tmp_path: Path) -> Path:
    """A file with factories: net, silent, wrong, broken, number, pair."""
    path = tmp_path / "code" / "nets.py"
    path.parent.mkdir()
    path.write_text(_MODULE)
    return path


@pytest.fixture
def source(module: Path) -> Callable[[str], str]:
    """The words for a factory of that file."""
    return lambda name: f"{module}:{name}"

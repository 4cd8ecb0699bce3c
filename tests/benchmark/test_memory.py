"""The most memory is seen, though it was given back; and missing packages are named."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from ibisa_onnx.benchmark.extra import check_extra
from ibisa_onnx.benchmark.memory import PeakMemory
from ibisa_onnx.errors import MissingDependencyError

_SIZE = 2**28


def test_what_is_given_back_in_between_counts():
    with PeakMemory() as before:
        pass
    with PeakMemory() as during:
        for _ in range(20):  # as long as it takes to be looked at
            block = np.ones(_SIZE, np.uint8)
            del block
            if during.bytes > before.bytes + _SIZE // 2:
                break
    with PeakMemory() as after:
        pass
    assert during.bytes > before.bytes + _SIZE // 2
    assert after.bytes < before.bytes + _SIZE // 2


@pytest.mark.parametrize(
    ("module", "name"),
    [("psutil", "psutil"), ("matplotlib.figure", "matplotlib"), ("scipy.stats", "SciPy")],
)
def test_a_missing_package_is_named_with_its_extra(monkeypatch, module, name):
    check_extra()
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingDependencyError, match=rf"{name} .*ibisa-onnx\[bench\]"):
        check_extra()

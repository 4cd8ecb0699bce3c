"""What type checkers are told: the names of presets, gradients, methods and formats."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from ibisa_onnx.commands.explaining import METHOD_NAMES
from ibisa_onnx.commands.explaining import PRESETS as OFFERED
from ibisa_onnx.commands.outputs import _KINDS
from ibisa_onnx.gradients.selection import ESTIMATED, GRADIENTS, Gradient
from ibisa_onnx.io.formats import IMAGE_FORMATS, ImageFormat, ResultSuffix
from ibisa_onnx.methods.ibisa.options import PRESETS, PresetName
from ibisa_onnx.methods.registry import MethodName

USE = """
import ibisa_onnx as ibisa

explainer = ibisa.Explainer(bytearray(b""), gradient="exact", options="fast")
explainer = ibisa.Explainer("m.onnx", providers=["cpu", ("openvino", {"device_type": "CPU"})])
explanation = explainer.explain(memoryview(b""), method="rise")
data: bytes = explanation.heat_map("webp") + explanation.encode(".json")
explainer.explain("a.png", method="raise")  # error
ibisa.Explainer("m.onnx", gradient="exakt")  # error
ibisa.Explainer("m.onnx", options="fats")  # error
explanation.encode(".jpg")  # error
explanation.heat_map("gif")  # error
"""


def test_the_names_are_those_that_there_are() -> None:
    assert set(get_args(PresetName)) == set(PRESETS) == set(OFFERED)
    assert get_args(MethodName) == METHOD_NAMES
    assert get_args(Gradient) == GRADIENTS
    assert set(ESTIMATED) < set(GRADIENTS)
    assert get_args(ResultSuffix) == _KINDS
    assert get_args(ImageFormat) == IMAGE_FORMATS


@pytest.mark.slow
def test_mypy_finds_misspelled_names(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    (tmp_path / "use.py").write_text(USE)
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", root / "pyproject.toml", "use.py"],
        cwd=tmp_path,
        env={"MYPYPATH": str(root), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=300,
    )
    found = [int(line.split(":")[1]) for line in done.stdout.splitlines() if ": error:" in line]
    lines = USE.splitlines()
    assert found == [n for n, line in enumerate(lines, 1) if line.endswith("# error")], done.stdout

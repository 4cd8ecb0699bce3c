"""`doctor` tells a sound installation from a broken one."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from ibisa_onnx.models.cuda import CudaCheck
from ibisa_onnx.models.environment import RuntimeReport

SOUND = RuntimeReport(
    builds={"onnxruntime": "1.32"},
    clash=False,
    opencv={"opencv-python-headless": "5.0"},
    opencv_clash=False,
    opencv_error=None,
    error=None,
    providers=("CPUExecutionProvider",),
    cuda=CudaCheck(False, "this build has no CUDA provider"),
    versions={"python": "3.12", "onnx": "1.23"},
)
CLASH = replace(SOUND, builds={"onnxruntime": "1.32", "onnxruntime-gpu": "1.32"}, clash=True)
OPENCV_CLASH = replace(
    SOUND, opencv={"opencv-contrib-python": "4.9", "opencv-python": "4.9"}, opencv_clash=True
)
NO_OPENCV = replace(
    SOUND,
    opencv={},
    opencv_error="OpenCV cannot be imported; pip install opencv-python-headless",
)
ABSENT = replace(
    SOUND,
    builds={},
    error="ONNX Runtime cannot be imported; pip install 'ibisa-onnx[cpu]'",
    providers=(),
)


@pytest.fixture
def report(monkeypatch):
    def set_(value):
        monkeypatch.setattr("ibisa_onnx.models.environment.runtime_report", lambda: value)

    return set_


def test_sound_installation(cli, report):
    report(SOUND)
    result = cli("doctor")
    assert result.code == 0
    for text in ("onnxruntime 1.32", "CPUExecutionProvider", "does not run", "onnx 1.23"):
        assert text in result.out


@pytest.mark.parametrize(
    ("state", "advice"),
    [
        (CLASH, "pip uninstall onnxruntime onnxruntime-gpu"),
        (OPENCV_CLASH, "pip uninstall opencv-contrib-python opencv-python"),
        (NO_OPENCV, "pip install opencv-python-headless"),
        (ABSENT, "pip install 'ibisa-onnx[cpu]"),
    ],
)
def test_broken_installation_is_code_1_with_advice(cli, report, state, advice):
    report(state)
    result = cli("doctor")
    assert result.code == 1
    assert advice in result.out
    assert advice in cli("doctor", "-q").out
    problems = json.loads(cli("doctor", "--json").out)["problems"]
    assert len(problems) == 1
    assert advice in problems[0]


def test_says_where_gradients_are_kept_and_how_many(cli, report, monkeypatch, tmp_path):
    report(SOUND)
    assert "cache         off" in cli("doctor").out
    assert json.loads(cli("doctor", "--json").out)["cache"] is None
    folder = tmp_path / "kept"
    monkeypatch.setenv("IBISA_ONNX_CACHE", str(folder))
    assert f"{folder}: 0 cached gradients" in cli("doctor").out
    folder.mkdir()
    (folder / "a.gradient").write_bytes(bytes(200_000))
    (folder / "a stranger").write_bytes(bytes(200_000))
    assert f"{folder}: 1 cached gradient, 0.2 MB" in cli("doctor").out
    kept = json.loads(cli("doctor", "--json").out)["cache"]
    assert kept == {"folder": str(folder), "files": 1, "bytes": 200_000}


def test_this_installation_is_sound(cli):
    data = json.loads(cli("doctor", "--json").out)
    assert "CPUExecutionProvider" in data["providers"]
    assert data["error"] is None

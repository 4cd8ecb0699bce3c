"""Ten times `kill -9` during `run FOLDER`: what is lost, what is done twice, and what is left."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest

from ibisa_onnx.demo import model_path
from ibisa_onnx.demo.scenes import draw_scene

_KILLS, _PICTURES = 10, 20
_ENVIRONMENT = {**os.environ, "IBISA_ONNX_CACHE": "off"}


@dataclass(frozen=True)
class Task:
    """A model, its pictures, and where their results go."""

    model: Path
    pictures: Path
    words: tuple[str, ...]

    def command(self, out: Path) -> list[str]:
        """Return the command, whose results are lines of JSON."""
        words = ["run", str(self.model), str(self.pictures), "-o", f"{out}/", "--json", *self.words]
        return [sys.executable, "-m", "ibisa_onnx", *words]

    def run(self, out: Path) -> list[dict[str, object]]:
        """Run it to its end."""
        words = self.command(out)
        done = subprocess.run(words, check=True, capture_output=True, text=True, env=_ENVIRONMENT)
        return [json.loads(line) for line in done.stdout.splitlines()]

    def killed_after(self, out: Path, seconds: float) -> tuple[list[dict[str, object]], bool]:
        """Kill it so long after its first new result: what it said, and whether it still ran.

        What was half said is left out.
        """
        words = self.command(out)
        with subprocess.Popen(words, bufsize=0, stdout=subprocess.PIPE, env=_ENVIRONMENT) as run:
            assert run.stdout is not None
            said = [run.stdout.readline()]
            while b'"skipped"' in said[-1]:
                said.append(run.stdout.readline())
            killed = False
            try:
                said.append(run.communicate(timeout=seconds)[0])
            except subprocess.TimeoutExpired:
                killed = True
                run.kill()
                said.append(run.communicate()[0])
        lines = b"".join(said).splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith(b"\n")], killed


@pytest.fixture
def task(tmp_path: Path) -> Task:
    """SqueezeNet and photographs where there are these, else the embedded model and scenes."""
    pictures, assets = tmp_path / "pictures", Path(os.environ.get("IBISA_ASSETS", ""))
    pictures.mkdir()
    if os.environ.get("IBISA_ASSETS") and (assets / "models" / "squeezenet.onnx").is_file():
        for photograph in sorted((assets / "images").glob("*.JPEG"))[:_PICTURES]:
            image = cv2.resize(cv2.imread(str(photograph)), (320, 240))
            assert cv2.imwrite(str(pictures / f"{photograph.stem}.png"), image)
        return Task(assets / "models" / "squeezenet.onnx", pictures, ("--preprocess", "caffe"))
    for seed in range(_PICTURES):
        image = draw_scene(np.random.default_rng(seed), count=2).image
        assert cv2.imwrite(str(pictures / f"scene-{seed:02}.png"), image[..., ::-1])
    return Task(model_path(), pictures, ())


def _results(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    found = {}
    for path in folder.glob("*.ibisa.png"):
        state = path.stat()
        found[path.name] = state.st_ino, state.st_mtime_ns, path.read_bytes()
    return found


@pytest.mark.hostile
def test_ten_kills_lose_at_most_the_picture_in_work(
    task: Task, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, moments = tmp_path / "out", random.Random(16)
    started = time.perf_counter()
    whole = task.run(tmp_path / "whole")
    lasted = time.perf_counter() - started
    expected = {name: data for name, (*_, data) in _results(tmp_path / "whole").items()}
    assert len(whole) == len(expected) == _PICTURES

    told: list[str] = []
    finished: dict[str, tuple[int, int, bytes]] = {}
    kills, moved, leftovers, steps = 0, 0, 0, []
    for number in range(_KILLS + 1):
        if number < _KILLS:
            said, killed = task.killed_after(out, moments.uniform(0, 1) * lasted / _PICTURES)
            kills += killed
        else:
            said = task.run(out)
        told += [str(each["image"]) for each in said if "skipped" not in each]
        now = _results(out) if out.exists() else {}
        moved += sum(now.get(name) != state for name, state in finished.items())
        assert sorted(now) == sorted(expected)[: len(now)]  # no picture but the one in work is lost
        assert all(data == expected[name] for name, (*_, data) in now.items())
        leftovers += sum(path.name.startswith(".") for path in out.iterdir()) if now else 0
        steps.append(len(now))
        finished = now

    figures = (
        f"{kills} kills over {_PICTURES} pictures, finished after each: {steps}; "
        f"results done again: {moved}, told of twice: {len(told) - len(set(told))}, "
        f"finished and not told of: {_PICTURES - len(set(told))}, "
        f"half-written files taken away: {leftovers}"
    )
    with capsys.disabled():
        sys.stdout.write(f"\n{figures}\n")
    assert kills > 0, figures
    assert moved == 0, figures
    assert len(told) == len(set(told)), figures
    assert sorted(path.name for path in out.iterdir()) == sorted(expected), figures

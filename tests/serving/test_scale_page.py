"""The commands and the code of docs/how-to/scale.md, on Ray."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from documentation.snippets import ROOT, Block, blocks
from serving.test_jobs import SECONDS, environment, filled, run

ray = pytest.importorskip("ray")
pytest.importorskip("pyarrow")

from ibisa_onnx.commands.run import command  # noqa: E402

BLOCKS = list(blocks((ROOT / "docs/how-to/scale.md").read_text()))


def _of_ray(language: str, part: str) -> Block:
    """The block that is not run without Ray."""
    (block,) = (each for each in BLOCKS if each.language == language and part in each.code)
    return block


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = filled(tmp_path_factory.mktemp("page"), 3)
    (folder / "in").rename(folder / "photos")
    (folder / "m.onnx").rename(folder / "annotated.onnx")
    return folder


@pytest.mark.slow
def test_the_local_command_and_reading_its_results(folder: Path) -> None:
    words = shlex.split(_of_ray("bash", "-o table/ --on ray").code)
    code, out, err = run(folder, *words[1:], "--jobs", "1")
    assert (code, out, err) == (0, next(b.code for b in BLOCKS if "written" in b.code) + "\n", "")
    _run_python(folder, _of_ray("python", "read_parquet").code + "\nassert map.ndim == 2\n")


@pytest.mark.slow
def test_the_pipeline(folder: Path) -> None:
    code = _of_ray("python", "map_batches").code
    _run_python(folder, code + "\nassert ray.data.read_parquet('rows').count() == 3\n")


def test_the_cluster_command_parses() -> None:
    words = shlex.split(_of_ray("bash", "--ray-address").code)
    context = command.make_context("run", words[2:], resilient_parsing=True)
    assert context.params["ray_address"] == "auto"
    assert context.params["map_type"] == "uint8"


def _run_python(folder: Path, code: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**os.environ, **environment()},
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stderr

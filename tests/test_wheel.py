"""What is built from the sources is whole, and runs where it is installed; all of it offline."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

import ibisa_onnx

pytestmark = pytest.mark.slow  # each builds or installs something
ROOT = Path(__file__).parents[1]
PACKAGES = {"ibisa_onnx": ROOT, "ibisa_exporters": ROOT / "exporters"}
NOT_SOURCES = shutil.ignore_patterns(
    ".*", "build", "dist", "out", "site", "*.egg-info", "__pycache__"
)
SETUPTOOLS = 77
BUILD = """
import sys
from setuptools import build_meta
print(getattr(build_meta, f"build_{sys.argv[1]}")(sys.argv[2]))
"""
FROM_A_CHECKOUT = """
import runpy, sys
from pathlib import Path
root = Path(sys.argv.pop(1))
sys.meta_path[:] = [each for each in sys.meta_path if "__editable__" not in repr(each)]
own = root, root / "exporters"
sys.path[:] = [str(root), *(each for each in sys.path if Path(each) not in own)]
sys.argv[0] = str(root / "cli.py")
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def _run(*command, **options):
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        capture_output=True,
        text=True,
        check=False,
        **options,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _builds():
    """Whether the setuptools that pyproject.toml asks for is here."""
    try:
        return int(metadata.version("setuptools").split(".")[0]) >= SETUPTOOLS
    except metadata.PackageNotFoundError:
        return False


def _build(kind, sources, folder):
    """Build an `sdist` or a `wheel` as pip would, with the setuptools that is here."""
    return folder / _run("-c", BUILD, kind, folder, cwd=sources).splitlines()[-1]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A wheel and a source distribution of these sources."""
    if not _builds():
        pytest.skip(f"there is no setuptools {SETUPTOOLS} or later here to build with")
    sources = tmp_path_factory.mktemp("sources") / "ibisa-onnx"
    shutil.copytree(ROOT, sources, ignore=NOT_SOURCES, symlinks=True)
    folder = tmp_path_factory.mktemp("built")
    return _build("wheel", sources, folder), _build("sdist", sources, folder)


def _files(wheel):
    """Return the checksum of each file in a wheel, by name."""
    with zipfile.ZipFile(wheel) as archive:
        return {each.filename: each.CRC for each in archive.infolist() if not each.is_dir()}


def test_the_wheel_holds_the_two_packages_whole(built):
    names = _files(built[0])
    tops = {name.split("/")[0] for name in names}
    assert {each for each in tops if not each.endswith(".dist-info")} == set(PACKAGES)
    sources = {
        file.relative_to(folder).as_posix()
        for package, folder in PACKAGES.items()
        for file in (folder / package).rglob("*.py")
    }
    assert {name for name in names if name.endswith(".py")} == sources
    assert {
        "ibisa_onnx/py.typed",
        "ibisa_exporters/py.typed",
        "ibisa_onnx/demo/model.onnx",
        "ibisa_onnx/demo/scene.png",
    } <= set(names)
    assert [name for name in names if name.endswith(".dist-info/licenses/LICENSE")]


def test_the_version_is_the_packages_own(built):
    assert [file.name.split("-")[1] for file in built] == [
        ibisa_onnx.__version__,
        f"{ibisa_onnx.__version__}.tar.gz",
    ]


def test_the_source_distribution_builds_the_same_wheel(built, tmp_path):
    wheel, sdist = built
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (unpacked,) = tmp_path.iterdir()
    for name in ("LICENSE", "README.md", "ibisa_onnx/py.typed", "ibisa_onnx/demo/model.onnx"):
        assert (unpacked / name).is_file()
    again = _build("wheel", unpacked, tmp_path)
    assert again.name == wheel.name
    assert _files(again) == _files(wheel)


def test_the_installed_wheel_runs_the_demo(built, tmp_path):
    if importlib.util.find_spec("pip") is None:
        pytest.skip("there is no pip here to install with")
    site, cwd = tmp_path / "site", tmp_path / "elsewhere"
    cwd.mkdir()
    pip = ("-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target", site)
    _run(*pip, built[0])
    there = {"cwd": cwd, "env": {**os.environ, "PYTHONPATH": str(site)}}
    where = _run("-c", "import ibisa_onnx; print(ibisa_onnx.__file__)", **there)
    assert Path(where.strip()).is_relative_to(site)
    version = _run("-m", "ibisa_onnx", "--version", **there)
    assert version == f"ibisa-onnx {ibisa_onnx.__version__}\n"
    _run("-m", "ibisa_onnx", "demo", "-o", "out", **there)
    assert len(list(cwd.glob("out/*.png"))) == 2


def test_a_checkout_finds_its_exporters_uninstalled():
    """A source that is none is refused by the exporters themselves, which have to be there."""
    done = subprocess.run(
        [sys.executable, "-c", FROM_A_CHECKOUT, str(ROOT), "export", "no source"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "torchvision:NAME" in done.stderr

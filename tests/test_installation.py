"""What the light installation `[cpu]` does, what it says of the rest, and how small it stays.

Commands run in a process of their own, in which no package can be imported but those that `[cpu]`
brings.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from ibisa_onnx.demo import model_path, scene_path

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
HIDE = """
import json, os, sys
for name in json.loads(os.environ["HIDDEN"]):
    sys.modules.setdefault(name, None)
"""
COMMAND = f"{HIDE}\nfrom ibisa_onnx.commands import main\nmain()"
LIBRARIES = f"""{HIDE}
import ibisa_onnx
ibisa_onnx.Explainer(sys.argv[1]).explain(sys.argv[2])
with open("/proc/self/maps") as maps:
    print(*sorted({{line.split()[-1] for line in maps if ".so" in line}}), sep="\\n")
"""
DISPLAY = re.compile(r"lib(GL|GLX|GLdispatch|EGL|OpenGL|X11|Xext|Xrender|xcb|SM|ICE|gtk|Qt)\b")
MEGABYTES = 450


def _light() -> set[str]:
    """Return the installed distributions that `ibisa-onnx[cpu]` asks for, directly or not."""
    found: set[str] = set()
    open_ = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["cpu"]]
    while open_:
        requirement = Requirement(open_.pop())
        name = canonicalize_name(requirement.name)
        wanted = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if wanted and name not in found:
            found.add(name)
            open_ += metadata.requires(name) or []
    return found


@pytest.fixture(scope="module")
def light():
    try:
        return _light()
    except metadata.PackageNotFoundError as error:
        pytest.skip(f"{error.name} is not installed, but another build in its place")


@pytest.fixture(scope="module")
def hidden(light):
    """The modules that belong to other distributions, and so are not there for `[cpu]`."""
    owners = metadata.packages_distributions()
    kept = light | {"ibisa-onnx"}
    return sorted(
        module
        for module, names in owners.items()
        if module.isidentifier() and kept.isdisjoint(map(canonicalize_name, names))
    )


@pytest.fixture
def python(tmp_path, hidden):
    """Run a program in an empty folder, where nothing but `[cpu]` can be imported."""

    def run(code, *args):
        return subprocess.run(
            [sys.executable, "-c", code, *map(str, args)],
            env={**os.environ, "HIDDEN": json.dumps(hidden), "IBISA_ONNX_CACHE": "off"},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


@pytest.fixture
def folder(tmp_path):
    """A folder of two pictures."""
    path = tmp_path / "photos"
    path.mkdir()
    for name in ("a.png", "b.png"):
        shutil.copy(scene_path(), path / name)
    return path


def test_it_asks_for_neither_torch_nor_cuda_nor_a_display(light, hidden):
    assert {"numpy", "onnx", "onnxruntime", "opencv-python-headless"} <= light
    assert not {name for name in light if re.match(r"torch|nvidia|cuda|triton", name)}
    assert {"torch", "scipy", "matplotlib", "psutil", "onnxscript", "pytest"} <= set(hidden)


def test_it_stays_small(light):
    files = [file.locate() for name in light for file in metadata.files(name) or ()]
    size = sum(Path(file).stat().st_size for file in files if Path(file).is_file())
    assert size < MEGABYTES * 1e6


def test_the_pinned_versions_bring_no_cuda():
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert "torch==" in " ".join(pins)
    assert not [pin for pin in pins if re.match(r"nvidia|cuda|triton", pin)]


@pytest.mark.parametrize(
    ("args", "written"),
    [
        (["demo", "-o", "out"], "out/*.png"),
        (["run", "MODEL", "PICTURE", "-o", "map.png"], "map.png"),
        (["run", "MODEL", "PICTURE", "-o", "map.png", "--gradient", "forward-only"], "map.png"),
        (["run", "MODEL", "photos", "-o", "out", "--preset", "fast"], "out/b*.png"),
        (["inspect", "MODEL", "PICTURE"], None),
        (["eval", "MODEL", "PICTURE", "--preset", "fast"], None),
        (["gradient", "MODEL", "-o", "gradient.onnx"], "gradient.onnx"),
        (["annotate", "MODEL", "-o", "annotated.onnx", "--scale", "0.5"], "annotated.onnx"),
        (["doctor"], None),
    ],
)
def test_it_is_enough_for(python, folder, args, written):
    places = {"MODEL": model_path(), "PICTURE": scene_path()}
    done = python(COMMAND, *(places.get(arg, arg) for arg in args))
    assert done.returncode == 0, done.stderr
    assert "error" not in done.stderr
    assert written is None or list(folder.parent.glob(written))


@pytest.mark.parametrize(
    ("args", "extra"),
    [
        (
            [
                "run",
                "MODEL",
                "photos",
                "--gradient",
                "surrogate",
                "--surrogate",
                "a.pt2",
                "--trust",
            ],
            "torch",
        ),
        (["distill", "MODEL", "photos"], "export"),
        (["export", "torchvision:resnet18"], "export"),
        (["export", "network.py:factory"], "export"),
        (["bench", "MODEL", "photos"], "bench"),
    ],
)
def test_what_needs_more_says_which_extra_in_one_line(python, folder, args, extra):
    (folder.parent / "a.pt2").write_bytes(b"PK\x03\x04")  # as an archive begins
    done = python(COMMAND, *(model_path() if arg == "MODEL" else arg for arg in args))
    assert done.returncode == 1
    assert f"pip install 'ibisa-onnx[{extra}]'" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("module", "extra"),
    [("ibisa_onnx.gradients.onnx_module", "torch"), ("ibisa_exporters.export", "export")],
)
def test_so_do_the_modules_that_need_more(python, module, extra):
    done = python(f"{HIDE}\nimport {module}")
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ibisa_onnx.errors.MissingDependencyError: torch cannot be imported")
    assert last.endswith(f"pip install 'ibisa-onnx[{extra}]'")


@pytest.fixture
def headless():
    builds = metadata.packages_distributions().get("cv2", [])
    if any("headless" not in name for name in builds):
        pytest.skip(f"OpenCV is {' and '.join(builds)} here, not a headless build")


@pytest.mark.usefixtures("headless")
def test_an_explanation_loads_no_library_of_a_display(python):
    if not Path("/proc/self/maps").exists():
        pytest.skip("this system does not say which libraries a process has loaded")
    done = python(LIBRARIES, model_path(), scene_path())
    loaded = done.stdout.splitlines()
    assert any("cv2" in path for path in loaded), done.stderr
    assert any("onnxruntime" in path for path in loaded)
    system = [path for path in loaded if "site-packages" not in path]  # a wheel may bring its own
    assert not [path for path in system if DISPLAY.search(path)]


@pytest.mark.usefixtures("headless")
def test_no_library_of_it_links_one_of_a_display(light):
    if not shutil.which("readelf"):
        pytest.skip("there is no readelf, which says what a library links")
    files = {Path(file.locate()) for name in light for file in metadata.files(name) or ()}
    libraries = [file for file in files if ".so" in file.suffixes and file.is_file()]
    done = subprocess.run(["readelf", "-d", *libraries], capture_output=True, text=True, check=True)
    needed = set(re.findall(r"\(NEEDED\).*\[(.*)\]", done.stdout))
    assert {"libc.so.6", "libstdc++.so.6"} <= needed
    brought = {file.name for file in files}
    assert not [name for name in needed - brought if DISPLAY.match(name)]

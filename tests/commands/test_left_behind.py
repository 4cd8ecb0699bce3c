"""What commands leave behind: nothing but what they say, neither in $TMPDIR nor at home."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
from strangers import relu

_VERBS = """
import sys
from ibisa_onnx.commands import main
said = ["--preprocess", "unit", "--resize", "stretch"]
for words in (
    ["run", "m.onnx", "p.png", *said, "-o", "map.png"],
    ["inspect", "m.onnx", "p.png", *said],
    ["gradient", "m.onnx", "-o", "g.onnx"],
    ["annotate", "m.onnx", *said, "-o", "a.onnx"],
):
    try:
        main(words)
    except SystemExit as ended:
        if ended.code:
            sys.exit(f"{words}: {ended.code}")
"""


def test_nothing_is_left_where_nobody_looks(tmp_path):
    """ONNX Runtime's telemetry would: it is off."""
    work, temporary, home = (tmp_path / name for name in ("work", "tmp", "home"))
    for folder in (work, temporary, home):
        folder.mkdir()
    (work / "m.onnx").write_bytes(relu().SerializeToString())
    picture = np.random.default_rng(0).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    cv2.imwrite(str(work / "p.png"), picture)
    said = {"TMPDIR": str(temporary), "HOME": str(home), "IBISA_ONNX_CACHE": str(tmp_path / "kept")}
    unsaid = ("ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME", "XDG_DATA_HOME")
    environment = {name: value for name, value in os.environ.items() if name not in unsaid} | said
    command = [sys.executable, "-c", _VERBS]
    done = subprocess.run(
        command, cwd=work, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert [*temporary.rglob("*"), *home.rglob("*")] == []
    assert _names(work) == {"m.onnx", "p.png", "map.png", "g.onnx", "a.onnx"}
    assert {Path(name).suffix for name in _names(tmp_path / "kept")} == {".gradient"}


def _names(folder: Path) -> set[str]:
    return {each.name for each in folder.iterdir()}

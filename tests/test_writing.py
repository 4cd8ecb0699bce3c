"""Files appear complete or not at all, and what is no file stays what it is."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ibisa_onnx.errors import ResultError
from ibisa_onnx.writing import write_files


def test_all_or_none(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(ResultError, match="folder"):
        write_files({tmp_path / "a.txt": b"a", tmp_path / "there": b"b"})
    assert [each.name for each in tmp_path.iterdir()] == ["there"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_written_into_and_stays_a_pipe(tmp_path: Path) -> None:
    pipe, got = tmp_path / "pipe", list[bytes]()
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()), daemon=True)
    reader.start()
    write_files({pipe: b"bytes", tmp_path / "file": b"more"})
    reader.join(timeout=10)
    assert got == [b"bytes"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert (tmp_path / "file").read_bytes() == b"more"


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="needs /dev/full")
def test_a_full_device_is_one_line_and_stays() -> None:
    with pytest.raises(ResultError, match="No space left"):
        write_files({Path("/dev/full"): b"bytes"})
    assert Path("/dev/full").is_char_device()


def test_a_link_stays_and_its_target_is_replaced(tmp_path: Path) -> None:
    target, link, loose = (tmp_path / name for name in ("target", "link", "loose"))
    target.write_bytes(b"old")
    link.symlink_to(target)
    loose.symlink_to(tmp_path / "elsewhere" / "new")
    (tmp_path / "elsewhere").mkdir()
    write_files({link: b"new", loose: b"first"})
    assert link.is_symlink()
    assert target.read_bytes() == b"new"
    assert (tmp_path / "elsewhere" / "new").read_bytes() == b"first"


@pytest.mark.skipif(not Path("/dev/stdout").exists(), reason="needs /dev/stdout")
def test_standard_output_takes_bytes_wherever_it_leads(tmp_path: Path) -> None:
    code = "from ibisa_onnx.writing import *; write_files({Path('/dev/stdout'): b'bytes'})"
    out = tmp_path / "out"
    with out.open("wb") as file:
        subprocess.run([sys.executable, "-c", code], check=True, stdout=file)
    assert out.read_bytes() == b"bytes"
    assert Path("/dev/stdout").is_symlink()
    piped = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert piped.stdout == b"bytes"

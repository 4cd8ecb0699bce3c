"""Files appear complete or not at all, and what is no file stays what it is."""

from __future__ import annotations

import os
import stat
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

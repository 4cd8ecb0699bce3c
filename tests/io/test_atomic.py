"""Files appear complete or not at all, and what is no file stays what it is."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import BinaryIO

import pytest

from ibisa_onnx.errors import ResultError
from ibisa_onnx.io.atomic import remove_abandoned, staged_folder, write_files


def test_all_or_none(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(ResultError, match="folder"):
        write_files({tmp_path / "new" / "a.txt": b"a", tmp_path / "there": b"b"})
    assert [each.name for each in tmp_path.iterdir()] == ["there"]


def test_a_refused_renaming_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, target: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(ResultError, match="not permitted"):
        write_files({tmp_path / "a.txt": b"a", tmp_path / "b.txt": b"b"})
    assert list(tmp_path.iterdir()) == []


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
    code = "from ibisa_onnx.io.atomic import *; write_files({Path('/dev/stdout'): b'bytes'})"
    out = tmp_path / "out"
    with out.open("wb") as file:
        subprocess.run([sys.executable, "-c", code], check=True, stdout=file)
    assert out.read_bytes() == b"bytes"
    with out.open("ab") as file:
        subprocess.run([sys.executable, "-c", code], check=True, stdout=file)
    assert out.read_bytes() == b"bytesbytes"
    assert Path("/dev/stdout").is_symlink()
    piped = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert piped.stdout == b"bytes"


@pytest.mark.skipif(not Path("/dev/fd").exists(), reason="needs /dev/fd")
def test_an_open_file_keeps_what_it_has_whatever_leads_to_it(tmp_path: Path) -> None:
    link, log = tmp_path / "link", tmp_path / "log"
    with log.open("wb") as file:
        file.write(b"earlier ")
        file.flush()
        link.symlink_to(f"/dev/fd/{file.fileno()}")
        write_files({link: b"linked "})
        write_files({Path(f"/proc/self/fd/{file.fileno()}"): b"by number"})
    assert log.read_bytes() == b"earlier linked by number"
    assert link.is_symlink()


def test_links_in_a_row_and_beside_their_targets(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "first").symlink_to("second")
    (tmp_path / "second").symlink_to(Path("folder") / "target")
    write_files({tmp_path / "first": b"bytes"})
    assert (tmp_path / "folder" / "target").read_bytes() == b"bytes"
    assert (tmp_path / "first").is_symlink()
    assert (tmp_path / "second").is_symlink()


def test_the_error_names_the_file() -> None:
    with pytest.raises(ResultError, match=r"^n{300}: cannot write"):
        write_files({Path("n" * 300): b"bytes"})


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="needs /dev/shm")
def test_a_file_in_shared_memory_is_replaced_as_a_whole() -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        path = Path(folder) / "file"
        path.write_bytes(b"old")
        with path.open("rb") as reader:
            write_files({path: b"new"})
            assert reader.read() == b"old"
        assert path.read_bytes() == b"new"


def test_a_staged_folder_gives_all_its_files_at_its_end(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("before")
    (tmp_path / "real").write_text("before")
    (tmp_path / "link").symlink_to("real")
    with staged_folder(tmp_path / "new") as stage:
        (stage / "b").write_text("b")
    with staged_folder(tmp_path) as stage:
        for name in ("a", "link"):
            (stage / name).write_text("after")
        assert (tmp_path / "a").read_text() == "before"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a", "link", "new", "real"]
    assert (tmp_path / "link").is_symlink()
    assert [(tmp_path / name).read_text() for name in ("a", "real", "new/b")] == [
        "after",
        "after",
        "b",
    ]


def test_a_staged_folder_leaves_nothing_after_an_error(tmp_path: Path) -> None:
    def work() -> None:
        with staged_folder(tmp_path / "new" / "deep") as stage:
            (stage / "a").write_text("after")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_which_something_is_stays_after_an_error(tmp_path: Path) -> None:
    def work() -> None:
        with staged_folder(tmp_path / "new" / "deep"):
            (tmp_path / "new" / "theirs").write_text("")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
    assert [each.name for each in tmp_path.rglob("*")] == ["new", "theirs"]


def test_a_staged_folder_says_what_it_cannot_write(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(ResultError, match="choose a folder with write access"),
        staged_folder(tmp_path / "file"),
    ):
        pass
    (tmp_path / "taken").mkdir()
    with pytest.raises(ResultError, match="taken"), staged_folder(tmp_path) as stage:
        (stage / "taken").write_text("")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["file", "taken"]


_LIMITED = """
import resource, sys
from pathlib import Path
from ibisa_onnx.errors import ResultError
from ibisa_onnx.io.atomic import write_files
resource.setrlimit(resource.RLIMIT_FSIZE, (50, 50))
try:
    write_files({Path("small"): bytes(40), Path("large"): bytes(int(sys.argv[1]))})
except ResultError as error:
    sys.stdout.write(str(error))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs limits of POSIX")
@pytest.mark.parametrize("size", [100, 100_000])
def test_a_file_that_may_not_grow_leaves_nothing_however_small(tmp_path: Path, size: int) -> None:
    words = [sys.executable, "-c", _LIMITED, str(size)]
    done = subprocess.run(words, check=True, capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout == "large: cannot write: File too large; free some space"
    assert list(tmp_path.iterdir()) == []


def test_files_are_renamed_in_the_order_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    renamed, real = list[str](), Path.replace

    def replace(path: Path, target: Path) -> Path:
        renamed.append(target.name)
        return real(path, target)

    monkeypatch.setattr(Path, "replace", replace)
    write_files({tmp_path / name: b"" for name in ("b", "c", "a")})
    assert renamed == ["b", "c", "a"]


def test_a_file_that_another_process_took_for_abandoned_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fcntl = pytest.importorskip("fcntl")
    real, taken = fcntl.flock, list[Path]()

    def flock(file: BinaryIO, operation: int) -> None:
        if not taken:  # the other is quicker
            taken.append(Path(file.name))
            remove_abandoned(tmp_path)
        real(file, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    write_files({tmp_path / "a": b"bytes"})
    assert [(each.name, each.read_bytes()) for each in tmp_path.iterdir()] == [("a", b"bytes")]


def test_files_are_written_where_nothing_can_be_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fcntl = pytest.importorskip("fcntl")

    def flock(*_: object) -> None:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", flock)
    left = tmp_path / ".a.01234567.ibisa.tmp"
    left.write_bytes(b"of a living process, perhaps")
    write_files({tmp_path / "a": b"bytes"})
    remove_abandoned(tmp_path)
    assert (tmp_path / "a").read_bytes() == b"bytes"
    assert left.exists()

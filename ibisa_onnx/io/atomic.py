"""Atomic file writes: files appear complete or not at all."""

from __future__ import annotations

import errno
import filecmp
import os
import re
import secrets
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from ibisa_onnx.ending import Unfinished
from ibisa_onnx.errors import ResultError
from ibisa_onnx.io.files import open_regular

if sys.platform != "win32":
    import fcntl

_STAGED = ".ibisa.tmp"
_ABANDONED = re.compile(rf"\..{{1,40}}\.[0-9a-f]{{8}}{re.escape(_STAGED)}", re.DOTALL)
_BLOCK = 1 << 20  # bytes that are copied at a time
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def check_not_given(path: Path, given: Iterable[str | os.PathLike[str] | None]) -> None:
    """Check that a file to be written is not one of the inputs.

    None and names that are not files (a preset, "-") are ignored.

    Raises
    ------
    ResultError
        It is one of them.
    """
    if path.resolve() in {Path(each).resolve() for each in given if each is not None}:
        raise ResultError(f"{path} is an input and is not overwritten; change -o")


@contextmanager
def made_folder(folder: Path, *, keep: bool = True) -> Iterator[None]:
    """Create a folder and its parents for the duration of a context.

    After an error, or if `keep` is False, the created folders are removed unless something else is
    in them by then.
    """
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    with ExitStack() as unfinished:
        for each in reversed(missing):
            unfinished.enter_context(Unfinished(each, whole=False))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            yield
        except BaseException:
            keep = False
            raise
        finally:
            for each in [] if keep else missing:
                with suppress(OSError):
                    each.rmdir()


def write_files(contents: Mapping[Path, bytes]) -> None:
    """Write files that appear complete or not at all, creating their folders.

    All are written under temporary names in the same folder before the first is renamed, in the
    given order; only devices, pipes and open files (/dev/stdout) are written directly, at the end.
    A link remains, and its target is replaced.

    Raises
    ------
    ResultError
        A folder or file cannot be written.
    """
    with ExitStack() as opened:  # outlives the temporary files
        _write_files(contents, opened)


def _write_files(contents: Mapping[Path, bytes], opened: ExitStack) -> None:
    staged: dict[Path, Path] = {}
    path = Path()
    try:
        targets: dict[Path, bytes] = {}
        for path, data in contents.items():
            targets[_target(path)] = data
        for path, data in targets.items():
            opened.enter_context(made_folder(path.parent))
            if path.is_dir():
                raise ResultError(f"{path}: cannot write: it is a folder; pass a file name")
            if not _is_device(path):
                staged[path] = _stage(path, data, opened)
        for path, data in targets.items():
            if path in staged:
                staged[path].replace(path)
                del staged[path]
            else:
                with path.open("ab") as file:
                    file.write(data)
    except OSError as error:
        full = error.errno in _FULL
        advice = "free some space" if full else "choose a folder with write access"
        raise ResultError(f"{path}: cannot write: {error.strerror}", advice) from error
    finally:
        for temporary in staged.values():
            temporary.unlink(missing_ok=True)


def _target(path: Path) -> Path:
    """Return the file to replace, with links followed; an open file (/dev/stdout) is no link."""
    seen = set[Path]()
    while path.is_symlink() and not _is_open_file(path) and path not in seen:
        seen.add(path)
        path = path.parent / path.readlink()
    return path


def _is_device(path: Path) -> bool:
    """Return whether a path is written directly: a device, a pipe, or /dev/stdout."""
    return _is_open_file(path) or (path.exists() and not path.is_file())


def _is_open_file(path: Path) -> bool:
    """Return whether a path names an open file of this process, or a device.

    /dev/shm and the like contain ordinary files.
    """
    folder = os.path.realpath(path.parent)
    return bool(re.fullmatch(r"/dev|/dev/fd|/proc/\d+(/task/\d+)?/fd", folder))


def _stage(path: Path, data: bytes, opened: ExitStack) -> Path:
    """Write `data` beside `path` under a temporary name, with the permissions of a new file.

    The file is held open, which holds its lock, until it is renamed.
    """
    file = _locked(path, opened)
    temporary = Path(file.name)
    with ExitStack() as closing:
        closing.enter_context(file)
        try:
            file.write(data)
            file.flush()
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        if sys.platform != "win32":  # where an open file cannot be renamed
            opened.push(closing.pop_all())
    return temporary


def _locked(path: Path, opened: ExitStack) -> BinaryIO:
    """Create a file beside `path`; its lock shows that its writer is alive."""
    while True:
        temporary = _temporary(path, _STAGED)
        opened.enter_context(Unfinished(temporary))
        file = temporary.open("xb")
        if _lock(file) and Path(file.name).exists():
            return file
        file.close()  # another process removed it as abandoned before it was locked


def _lock(file: BinaryIO) -> bool:
    """Lock a file if the platform supports it; return False if another process holds the lock."""
    if sys.platform != "win32":
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # a file system without locks, where no process removes another's files
            pass
    return True


def remove_abandoned(folder: Path) -> None:
    """Remove temporary files of `write_files` whose writers were killed; others are locked.

    Files that cannot be removed or locked remain; their names begin with a dot, so they are never
    mistaken for results.
    """
    if sys.platform == "win32":
        return
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if _ABANDONED.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                _remove_unlocked(entry.path)


def _remove_unlocked(path: str) -> None:
    """Remove a file that no process has locked."""
    if sys.platform == "win32":
        return
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.unlink(path)  # noqa: PTH108
        finally:
            os.close(descriptor)


def _temporary(path: Path, ending: str = ".tmp") -> Path:
    """Return an unused name beside `path`."""
    return path.with_name(f".{path.name[:40]}.{secrets.token_hex(4)}{ending}")


def copy_files(places: Mapping[Path, Path]) -> None:
    """Copy regular files, each complete or not at all; identical existing files are left.

    Raises
    ------
    ResultError
        A different file exists, or a file cannot be copied.
    """
    for source, path in places.items():
        try:
            if path.exists():
                if path.samefile(source):  # skips comparing large files with themselves
                    continue
                if not (path.is_file() and filecmp.cmp(source, path, shallow=False)):
                    raise ResultError(
                        f"{path} exists and differs from {source}; choose another folder"
                    )
                continue
            temporary = _temporary(path)
            with made_folder(path.parent), Unfinished(temporary):
                try:
                    with (
                        open_regular(source, "weights", ResultError) as file,
                        temporary.open("xb") as copy,
                    ):
                        shutil.copyfileobj(file, copy, _BLOCK)
                    temporary.replace(path)
                finally:
                    temporary.unlink(missing_ok=True)
        except OSError as error:
            raise ResultError(f"{path}: cannot copy {source} here: {error.strerror}") from error


@contextmanager
def staged_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder inside `folder`; its files move to `folder` at the end.

    For files that are too large for memory, or must be tested first. After an error, no file moves
    and nothing is left behind.

    Raises
    ------
    ResultError
        The folder cannot be created, or a file not moved.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(made_folder(folder))
            stage = folder / f".ibisa-onnx.{secrets.token_hex(4)}"
            stack.enter_context(Unfinished(stage))
            stage.mkdir(0o700)
            stack.callback(shutil.rmtree, stage, ignore_errors=True)
        except OSError as error:
            raise ResultError(
                f"{folder}: cannot write: {error.strerror}; choose a folder with write access"
            ) from error
        yield stage
        for file in sorted(stage.iterdir(), reverse=True):  # model.onnx after its .data
            _move(file, _target(folder / file.name))


def _move(file: Path, path: Path) -> None:
    """Move a file into place, with the permissions of a new file."""
    try:
        file.replace(path)
    except OSError as error:
        raise ResultError(f"{path}: cannot write: {error.strerror}; choose another name") from error

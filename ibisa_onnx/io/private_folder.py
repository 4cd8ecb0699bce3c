"""A folder of small files of one user: what is in it is used only if nobody else can write to it.

Files are written to a temporary name and renamed, so that processes can write concurrently. The
least recently used are evicted. What files mean, and whether they are intact, is their owners'
affair.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ibisa_onnx.errors import ResultError
from ibisa_onnx.io.atomic import write_files
from ibisa_onnx.io.files import read_file
from ibisa_onnx.limits import Limits

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_FOLDER_RIGHTS, _FILE_RIGHTS = 0o700, 0o600


@dataclass(frozen=True)
class PrivateFolder:
    """Files of one suffix in a folder.

    Attributes
    ----------
    folder
        The folder; created with the first file, for its user alone.
    suffix
        Suffix of the files.
    most
        Maximum number of files; the least recently used are removed.
    largest
        Maximum size of a file in bytes.
    """

    folder: Path
    suffix: str
    most: int
    largest: int

    def load(self, name: str) -> bytes | None:
        """Return a file's contents; None if it does not exist, is too large or not trusted."""
        path = self._path(name)
        if _distrust(self.folder) or not _is_own_file(path):
            return None
        try:
            data = read_file(path, "cache", ResultError, Limits(file_bytes=self.largest))
        except ResultError:  # also if another process removed it
            return None
        with suppress(OSError):  # owned by root
            os.utime(path)
        return data

    def store(self, name: str, data: bytes) -> None:
        """Write a file, unless it is too large, and remove the least recently used.

        Raises
        ------
        ResultError
            The folder is not writable, or is writable by other users.
        """
        if len(data) > self.largest:
            return
        _make_folder(self.folder)
        if refusal := _distrust(self.folder):
            raise ResultError(refusal, "choose another folder")
        path = self._path(name)
        _clear(path)
        write_files({path: data})
        with suppress(OSError):  # another process wrote the same since
            path.chmod(_FILE_RIGHTS)
        newest = sorted(self.entries(), reverse=True)
        for _, _, old in newest[self.most :]:
            _remove(old)

    def entries(self) -> Iterator[tuple[float, int, Path]]:
        """Yield time, size and path of each file, skipping any that another process removes."""
        for path in self.folder.glob(f"*{self.suffix}"):
            try:
                found = path.lstat()
            except OSError:
                continue
            if stat.S_ISREG(found.st_mode):
                yield found.st_mtime, found.st_size, path

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}{self.suffix}"


def _distrust(folder: Path) -> str:
    """Return why a folder is not trusted, i.e. how other users can write to it; empty if trusted.

    Users who can write to a parent folder can replace this one, but only by a folder that they own.
    Windows has no such permissions: a user's profile is private.
    """
    try:
        found = folder.stat()
    except OSError:  # it does not exist, or writing to it raises a clearer error
        return ""
    if not _is_own(found):
        return f"{folder} belongs to another user, who could modify what is cached"
    if os.name == "posix" and found.st_mode & _OTHERS_WRITE:
        rights = stat.S_IMODE(found.st_mode)
        return f"{folder} is writable by other users (mode {rights:o}); run chmod 700 on it"
    return ""


def _is_own_file(path: Path) -> bool:
    """Return whether a path is a regular file, not a link, that no other user can write to."""
    try:
        found = path.lstat()
    except OSError:
        return False
    shared = os.name == "posix" and found.st_mode & _OTHERS_WRITE
    return stat.S_ISREG(found.st_mode) and _is_own(found) and not shared


def _is_own(found: os.stat_result) -> bool:
    """Return whether a file belongs to this user, or to root, who can write everywhere anyway."""
    return os.name != "posix" or found.st_uid in (os.geteuid(), 0)


def _make_folder(folder: Path) -> None:
    """Create the folder, accessible to this user only."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=_FOLDER_RIGHTS, exist_ok=True)
    except OSError as error:
        raise ResultError(
            f"{folder}: cannot write: {error.strerror}", "choose a writable folder"
        ) from error


def _clear(path: Path) -> None:
    """Remove a pipe or link, which would be written into or followed."""
    with suppress(OSError):  # nothing there, or writing raises a clearer error
        if not stat.S_ISREG(path.lstat().st_mode):
            path.unlink()


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise ResultError(f"{path}: cannot remove an old entry: {error.strerror}") from error

"""Where a job keeps its results: a folder, or a URL that fsspec opens. Files appear complete.

A folder on several machines must be the same one on all of them, for instance on a network file
system; an object store is by nature.
"""

from __future__ import annotations

import os
import secrets
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, TypeVar

from ibisa_onnx.errors import IbisaError, ImageError, MissingDependencyError, ResultError
from ibisa_onnx.io.atomic import remove_abandoned, write_files
from ibisa_onnx.io.files import is_url
from ibisa_onnx.models.endpoint import without_credentials

_COMPLETE = frozenset(
    ("s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oci", "oss", "memory", "r2")
)
"""Protocols whose files are complete as soon as they exist; others need a rename."""
_READERS, _READ_AHEAD = 32, 1024  # files read at a time from a URL
_LOCAL = ("file://", "local://")
_LEASE = "ibisa-job/lease"
_RENEWED, _EXPIRES = 4.0, 20.0  # seconds
_BUSY = "{}: another run is writing here; wait until it has ended, or pass another -o"
_Found = TypeVar("_Found")


class Storage(Protocol):
    """Files by name, relative to one place; a name's parts are separated by slashes."""

    def write(self, contents: Mapping[str, bytes]) -> None:
        """Write files, replacing existing ones; `ResultError` if one cannot be written."""

    def read(self, name: str) -> bytes | None:
        """Return a file's contents; None if it does not exist."""

    def read_all(self, names: Sequence[str]) -> Iterator[bytes | None]:
        """Yield the contents of files, in their order."""

    def names(self, folder: str) -> list[str]:
        """Return the names of the files in a folder and its subfolders, in any order."""

    def remove(self, names: Iterable[str]) -> None:
        """Remove files, if they exist."""


def storage_at(place: str) -> Storage:
    """Return the storage at a folder or URL.

    Raises
    ------
    MissingDependencyError
        It is a URL, and fsspec or the protocol's package is not installed.
    ResultError
        There is no storage of this kind.
    """
    if (local := local_path(place)) is not None:
        return FolderStorage(Path(local).absolute())
    return UrlStorage(place)


@contextmanager
def sole_writer(place: str) -> Iterator[None]:
    """Keep other runs from writing to a place meanwhile; a folder is created if it is missing.

    A folder is locked. At a URL, a file is renewed every few seconds; one that a killed run left
    is waited for and taken over.

    Raises
    ------
    ResultError
        Another run is writing there.
    """
    folder = local_path(place)
    if folder is None:
        with _lease(storage_at(place), without_credentials(place)):
            yield
        return
    descriptor = _locked(Path(folder))
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _locked(folder: Path) -> int | None:
    """Lock a folder; None where that is not possible."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if sys.platform == "win32":
            return None
        import fcntl

        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise ResultError(f"{folder}: cannot write: {error.strerror}; change -o") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise ResultError(_BUSY.format(folder)) from None
    except OSError:  # a file system without locks
        pass
    return descriptor


@contextmanager
def _lease(storage: Storage, shown: str) -> Iterator[None]:
    """Hold the lease of a place without locks."""
    before, begun = storage.read(_LEASE), time.monotonic()
    while before is not None and time.monotonic() - begun < _EXPIRES:
        time.sleep(_RENEWED / 4)
        if storage.read(_LEASE) not in (before, None):
            raise ResultError(_BUSY.format(shown))
    token, over = secrets.token_hex(8), threading.Event()

    def renew() -> None:
        number = 0
        while not over.wait(_RENEWED):
            number += 1
            with suppress(ResultError):  # the run itself will meet it
                storage.write({_LEASE: f"{token} {number}".encode()})

    storage.write({_LEASE: f"{token} 0".encode()})
    time.sleep(_RENEWED / 4)  # two runs that began together: the later one writes last
    if not (storage.read(_LEASE) or b"").startswith(token.encode()):
        raise ResultError(_BUSY.format(shown))
    thread = threading.Thread(target=renew, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        storage.remove([_LEASE])


def local_path(place: str) -> str | None:
    """Return the path of a local file or folder, also for file:// URLs; None for other URLs."""
    for prefix in _LOCAL:
        if place.lower().startswith(prefix):
            from urllib.request import url2pathname

            return url2pathname(place[len(prefix) :])
    return None if is_url(place) else place


def file_system(url: str, error: type[IbisaError] = ImageError) -> tuple[Any, str]:
    """Return the fsspec file system of a URL, and the path in it.

    Raises
    ------
    MissingDependencyError
        fsspec or the protocol's package is not installed.
    IbisaError
        Of class `error`: the protocol is unknown, or the file system cannot be reached.
    """
    from ibisa_onnx.imports import import_extra

    fsspec = import_extra("fsspec.core", "ray")
    try:
        found: tuple[Any, str] = fsspec.url_to_fs(url)
    except ImportError as missing:
        raise MissingDependencyError(
            f"{without_credentials(url)}: {missing}; pip install that package"
        ) from missing
    except Exception as failure:  # each file system raises its own
        raise error(f"cannot open {without_credentials(url)}: {failure}") from failure
    return found


class FolderStorage:
    """A folder, which is created when the first file is written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, contents: Mapping[str, bytes]) -> None:
        """See `Storage`."""
        write_files({self._path(name): data for name, data in contents.items()})

    def read(self, name: str) -> bytes | None:
        """See `Storage`."""
        path = self._path(name)
        try:
            if not stat.S_ISREG(path.lstat().st_mode):
                raise ResultError(f"{path} is not a file; remove it")
            return path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise ResultError(f"{path}: cannot read: {error.strerror}") from error

    def read_all(self, names: Sequence[str]) -> Iterator[bytes | None]:
        """See `Storage`."""
        return map(self.read, names)

    def names(self, folder: str) -> list[str]:
        """See `Storage`; also removes what killed writers left."""
        found = []
        for home, _, files in os.walk(self._path(folder)):
            remove_abandoned(Path(home))
            inside = Path(home).relative_to(self.folder)
            found += [(inside / name).as_posix() for name in files if not name.startswith(".")]
        return found

    def remove(self, names: Iterable[str]) -> None:
        """See `Storage`; folders that become empty are removed too."""
        for name in names:
            path = self._path(name)
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise ResultError(f"{path}: cannot remove: {error.strerror}") from error
            with suppress(OSError):  # the first folder that is not empty
                for parent in path.parents:
                    if parent == self.folder:
                        break
                    parent.rmdir()

    def _path(self, name: str) -> Path:
        """Return a file's path; `ResultError` if a link would lead out of the folder."""
        path = self.folder
        for part in PurePosixPath(name).parts:
            path = path / part
            if path.is_symlink() or part == "..":
                raise ResultError(f"{path} is a link; remove it, or change -o")
        return path


class UrlStorage:
    """A place that fsspec opens: an object store, or another network file system."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        self._system, root = file_system(self._url, ResultError)
        self._root = str(root).rstrip("/")
        protocols = self._system.protocol
        names = {protocols} if isinstance(protocols, str) else set(protocols)
        self._complete = bool(names & _COMPLETE)

    def write(self, contents: Mapping[str, bytes]) -> None:
        """See `Storage`."""
        for name, data in contents.items():
            self._call(partial(self._put, name, data), name)

    def read(self, name: str) -> bytes | None:
        """See `Storage`."""

        def read() -> bytes | None:
            try:
                return bytes(self._system.cat_file(f"{self._root}/{name}"))
            except FileNotFoundError:
                return None

        return self._call(read, name)

    def read_all(self, names: Sequence[str]) -> Iterator[bytes | None]:
        """See `Storage`; many at a time."""
        with ThreadPoolExecutor(_READERS) as pool:
            for first in range(0, len(names), _READ_AHEAD):
                yield from pool.map(self.read, names[first : first + _READ_AHEAD])

    def names(self, folder: str) -> list[str]:
        """See `Storage`."""

        def find() -> list[str]:
            self._system.invalidate_cache()
            try:
                paths = self._system.find(f"{self._root}/{folder}")
            except FileNotFoundError:
                return []
            lead = len(self._root.lstrip("/")) + 1
            found = [str(path).lstrip("/")[lead:] for path in paths]
            return [name for name in found if not name.rpartition("/")[2].startswith(".")]

        return self._call(find, folder)

    def remove(self, names: Iterable[str]) -> None:
        """See `Storage`."""
        for name in names:
            with suppress(FileNotFoundError):
                self._system.rm_file(f"{self._root}/{name}")

    def _put(self, name: str, data: bytes) -> None:
        path = f"{self._root}/{name}"
        if self._complete:
            self._system.pipe_file(path, data)
            return
        home, _, last = path.rpartition("/")
        temporary = f"{home}/.{last[:40]}.{secrets.token_hex(4)}.ibisa.tmp"
        self._system.makedirs(home, exist_ok=True)
        self._system.pipe_file(temporary, data)
        self._system.mv(temporary, path)

    def _call(self, function: Callable[[], _Found], name: str) -> _Found:
        try:
            return function()
        except Exception as error:  # each file system raises its own
            place = without_credentials(f"{self._url}/{name}")
            raise ResultError(f"{place}: cannot read or write: {error}", "check -o") from error

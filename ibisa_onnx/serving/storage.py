"""Where a job keeps its results: a folder, or a URL that fsspec opens. Files appear complete.

A folder on several machines must be the same one on all of them, for instance on a network file
system; an object store is by nature.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
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
        write_files({self.folder / name: data for name, data in contents.items()})

    def read(self, name: str) -> bytes | None:
        """See `Storage`."""
        path = self.folder / name
        try:
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
        for home, _, files in os.walk(self.folder / folder):
            remove_abandoned(Path(home))
            inside = Path(home).relative_to(self.folder)
            found += [(inside / name).as_posix() for name in files if not name.startswith(".")]
        return found

    def remove(self, names: Iterable[str]) -> None:
        """See `Storage`; folders that become empty are removed too."""
        for name in names:
            path = self.folder / name
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise ResultError(f"{path}: cannot remove: {error.strerror}") from error
            with suppress(OSError):  # the first folder that is not empty
                for parent in path.parents:
                    if parent == self.folder:
                        break
                    parent.rmdir()


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

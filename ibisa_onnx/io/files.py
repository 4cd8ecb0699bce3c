"""Reads regular files up to a size limit.

A pipe could block forever, and a device might never end. The contents are interpreted elsewhere.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING

from ibisa_onnx.errors import IbisaError
from ibisa_onnx.limits import Limits, variable

if TYPE_CHECKING:
    from typing_extensions import Buffer as Buffer
else:
    Buffer = bytes  # `collections.abc.Buffer` is new in Python 3.12

Named = str | os.PathLike[str]
GIT_LFS = b"version https://git-lfs.github.com/"
"""Start of a Git LFS pointer, which a repository contains instead of a large file."""
GIT_LFS_ADVICE = "run git lfs pull in its repository"
_URL = re.compile(r"[a-z][a-z0-9+.-]+:/", re.IGNORECASE)  # longer than the letter of a drive
_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def read_file(
    path: Named,
    what: str,
    error: type[IbisaError],
    limits: Limits | None = None,
    limit: str = "file_bytes",
) -> bytes:
    """Read a regular file.

    Parameters
    ----------
    path
        The file; links are followed.
    what
        What it contains, for error messages: "image", "labels".
    error
        The class of the error.
    limits
        Limits on file sizes; None: from the environment.
    limit
        Name of the limit that applies.

    Returns
    -------
    bytes
        The file's contents.

    Raises
    ------
    IbisaError
        Of class `error`: the file does not exist, is a folder, a pipe or a device, is not readable,
        or exceeds the limit.
    """
    most = getattr(Limits.of(limits), limit)
    place = name_of(path)
    with open_regular(path, what, error) as file:
        size = os.fstat(file.fileno()).st_size
        data = file.read(most + 1) if size <= most else None
    if data is None or len(data) > most:
        raise error(
            f"{place} has {max(size, most + 1):,} bytes, more than the limit of {most:,} for "
            f"{what} files; set {variable(limit)} to allow more"
        )
    return data


@contextmanager
def open_regular(path: Named, what: str, error: type[IbisaError]) -> Iterator[BufferedReader]:
    """Open a regular file to read it in parts; `what` and `error` are those of `read_file`.

    Raises
    ------
    IbisaError
        Of class `error`, as `read_file`; also if reading fails later.
    """
    place = name_of(path)
    try:
        # Opened without blocking, then checked: the file may change after an earlier check.
        descriptor = _descriptor(path)
        try:
            _check_regular(os.fstat(descriptor).st_mode, place, what, error)
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                yield file
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        raise error(missing(path, what)) from None
    except OSError as failure:
        raise error(f"cannot read {what} {place}: {failure.strerror or failure}") from failure


def read_text(path: Named, what: str, error: type[IbisaError], limits: Limits | None = None) -> str:
    """Read a regular file of UTF-8 text, with or without a byte order mark.

    Raises
    ------
    IbisaError
        As `read_file`, or the file is not UTF-8.
    """
    data = read_file(path, what, error, limits, "text_bytes")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as failure:
        raise error(f"{what} {name_of(path)} is not UTF-8 text; save it as UTF-8") from failure


def is_regular(path: Named) -> bool:
    """Return whether a path is a regular file, following links; False for invalid paths."""
    try:
        return stat.S_ISREG(Path(path).stat().st_mode)
    except (OSError, ValueError):
        return False


def is_url(path: Named) -> bool:
    """Return whether a path is a URL; `Path` reduces its two slashes to one."""
    return _URL.match(str(path)) is not None and not os.path.lexists(path)


def missing(path: Named, what: str) -> str:
    """Return the message for a path that does not exist, which may be a URL."""
    if is_url(path):
        return f"{name_of(path)}: URLs are not read; download the file"
    return f"{what} file {name_of(path)} does not exist; check the path"


def is_buffer(value: object) -> bool:
    """Return whether a value holds bytes: `bytes`, `bytearray`, `memoryview`, `mmap`, an array."""
    try:
        memoryview(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):  # no buffer, or a closed one
        return False
    return True


def name_of(path: Named) -> str:
    """Return a path as it appears in error messages."""
    return str(path)[:200]


def _descriptor(path: Named) -> int:
    try:
        return os.open(path, _FLAGS)
    except ValueError as failure:  # a null byte in the name
        raise OSError(errno.EINVAL, str(failure)) from failure


def _check_regular(mode: int, place: str, what: str, error: type[IbisaError]) -> None:
    """Raise `error` if the opened file is not regular."""
    if stat.S_ISDIR(mode):
        raise error(f"{place} is a folder, not a regular {what} file; pass a file in it")
    if not stat.S_ISREG(mode):
        kind = "pipe" if stat.S_ISFIFO(mode) else "device"
        raise error(f"{place} is a {kind}, not a regular {what} file; pass a file")

"""Files that someone named, read whole: regular ones only, and no more than a limit.

A pipe would block for ever, a device might never end. What the bytes are is known elsewhere.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

from ibisa_onnx.errors import IbisaError
from ibisa_onnx.limits import Limits, variable

Named = str | os.PathLike[str]
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
        Its name; a link is followed.
    what
        What to call it in an error: "picture", "labels".
    error
        The class of the error.
    limits
        How many bytes are read at most; None: as the environment says.
    limit
        Which of them counts.

    Raises
    ------
    IbisaError
        Of the class `error`: there is no such file, it is a folder, a pipe or a device, it may not
        be read, or it has more bytes than the limit.
    """
    most = getattr(limits or Limits.from_environment(), limit)
    place = name_of(path)
    with open_regular(path, what, error) as file:
        size = os.fstat(file.fileno()).st_size
        data = file.read(most + 1) if size <= most else None
    if data is None or len(data) > most:
        raise error(
            f"{place} has {max(size, most + 1):,} bytes, more than the {most:,} that a "
            f"{what} file may have; set {variable(limit)} to allow more"
        )
    return data


@contextmanager
def open_regular(path: Named, what: str, error: type[IbisaError]) -> Iterator[BufferedReader]:
    """Open a regular file to be read piece by piece; `what` and `error` are those of `read_file`.

    Raises
    ------
    IbisaError
        Of the class `error`, as `read_file`; also where reading fails later.
    """
    place = name_of(path)
    try:
        # Opened without waiting: what a name stands for may change between a look and a read.
        descriptor = _descriptor(path)
        try:
            _check_regular(os.fstat(descriptor).st_mode, place, what, error)
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                yield file
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        raise error(f"there is no {what} file {place}; check the path") from None
    except OSError as failure:
        raise error(f"cannot read {what} {place}: {failure.strerror or failure}") from failure


def read_text(path: Named, what: str, error: type[IbisaError], limits: Limits | None = None) -> str:
    """Read a regular file of UTF-8 text, with or without a byte order mark.

    Raises
    ------
    IbisaError
        As `read_file`, or it is not UTF-8.
    """
    data = read_file(path, what, error, limits, "text_bytes")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as failure:
        raise error(f"{what} {name_of(path)} is not UTF-8 text; save it so") from failure


def is_regular(path: Named) -> bool:
    """Tell whether a name stands for a regular file, links followed; False where it cannot be."""
    try:
        return stat.S_ISREG(Path(path).stat().st_mode)
    except (OSError, ValueError):
        return False


def name_of(path: Named) -> str:
    """Return a path as it is written in an error."""
    return str(path)[:200]


def _descriptor(path: Named) -> int:
    try:
        return os.open(path, _FLAGS)
    except ValueError as failure:  # a name with a zero byte
        raise OSError(errno.EINVAL, str(failure)) from failure


def _check_regular(mode: int, place: str, what: str, error: type[IbisaError]) -> None:
    """Raise `error` where what was opened is no regular file."""
    if stat.S_ISDIR(mode):
        raise error(f"{place} is a folder, not a {what} file; name a file in it")
    if not stat.S_ISREG(mode):
        kind = "pipe" if stat.S_ISFIFO(mode) else "device"
        raise error(f"{place} is a {kind}, not a file; give a regular file")

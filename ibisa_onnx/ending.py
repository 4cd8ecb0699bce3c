"""Immediate exit of a command: remove unfinished files, print one line, run nothing else.

An exception raised at an arbitrary point, as Python's Ctrl-C does, is lost in callbacks and
finalisers, and turns into other errors while native libraries are being loaded. This module is
needed before any other, so it imports nothing slow.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # typing's own would be an import
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

_PREFIX = "ibisa-onnx: error:"
_unfinished: dict[str, bool] = {}
"""Paths to remove on exit, and whether to remove a folder together with its contents."""
_messages: list[Callable[[], str]] = []


class Unfinished:
    """A context manager for a temporary file or folder, which an immediate exit removes.

    `whole` False: a folder is removed only if it is empty.
    """

    def __init__(self, path: str | os.PathLike[str], *, whole: bool = True) -> None:
        self._path, self._whole = os.path.abspath(path), whole  # noqa: PTH100

    def __enter__(self) -> None:
        _unfinished[self._path] = self._whole

    def __exit__(self, *_: object) -> None:
        _unfinished.pop(self._path, None)


class ExitMessage:
    """A context manager in which an immediate exit prints a message of its own."""

    def __init__(self, message: Callable[[], str]) -> None:
        self._message = message

    def __enter__(self) -> None:
        _messages.append(self._message)

    def __exit__(self, *_: object) -> None:
        _messages.remove(self._message)


def end_at_once(code: int, what: str) -> NoReturn:
    """End the process and print `what`, unless `ExitMessage` are active."""
    for path, whole in reversed(list(_unfinished.items())):
        _remove(path, whole=whole)
    line = f"{_PREFIX} {_exit_message() if _messages else what}\n"
    try:
        file = sys.stderr.fileno()
        # Start a new line after a progress bar and the echoed ^C.
        text = f"\n{line}" if os.isatty(file) else line
        os.write(file, text.encode(errors="backslashreplace"))
    except (AttributeError, OSError, ValueError):
        pass  # stderr cannot be written
    os._exit(code)


def _exit_message() -> str:
    from ibisa_onnx.escaping import escaped  # already loaded once work has begun

    return escaped(_messages[-1]())


def _remove(path: str, *, whole: bool) -> None:
    """Remove a file or folder as far as possible."""
    inside = os.walk(path, topdown=False) if whole else ()
    for folder, folders, files in inside:
        for name in files:
            _without_error(os.unlink, os.path.join(folder, name))  # noqa: PTH118
        for name in folders:
            _without_error(os.rmdir, os.path.join(folder, name))  # noqa: PTH118
    if not _without_error(os.rmdir, path) and whole:
        _without_error(os.unlink, path)


def _without_error(function: Callable[[str], None], path: str) -> bool:
    """Return whether a call succeeds."""
    try:
        function(path)
    except OSError:
        return False
    return True

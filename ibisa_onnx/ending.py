"""How a command ends at once: what is half-written goes, one line is said, and nothing else runs.

An exception at an arbitrary place, as Ctrl-C raises in Python, is lost in callbacks and finalisers,
and turns into other errors where native libraries are being loaded. Nothing is imported here that
takes time: this must be there before anything else is.
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
"""Paths that exist for the time being, and whether all that is in them goes too."""
_words: list[Callable[[], str]] = []


class Unfinished:
    """A context for a file or folder that is made in it and is not to outlive it.

    `whole` False: of a folder that may hold something else by then, and stays if it does.
    """

    def __init__(self, path: str | os.PathLike[str], *, whole: bool = True) -> None:
        self._path, self._whole = os.path.abspath(path), whole  # noqa: PTH100

    def __enter__(self) -> None:
        _unfinished[self._path] = self._whole

    def __exit__(self, *_: object) -> None:
        _unfinished.pop(self._path, None)


class LastWords:
    """A context in which an interruption says something of its own."""

    def __init__(self, words: Callable[[], str]) -> None:
        self._said = words

    def __enter__(self) -> None:
        _words.append(self._said)

    def __exit__(self, *_: object) -> None:
        _words.remove(self._said)


def end_at_once(code: int, what: str) -> NoReturn:
    """End the process: `what` is what happened to it, unless there are last words."""
    for path, whole in reversed(list(_unfinished.items())):
        _remove(path, whole=whole)
    line = f"{_PREFIX} {_said_last() if _words else what}\n"
    try:
        file = sys.stderr.fileno()
        # Off the line on which a bar is, and what the terminal echoed.
        text = f"\n{line}" if os.isatty(file) else line
        os.write(file, text.encode(errors="backslashreplace"))
    except (AttributeError, OSError, ValueError):
        pass  # nobody can be told
    os._exit(code)


def _said_last() -> str:
    from ibisa_onnx.escaping import escaped  # there is work by now, and so it is loaded

    return escaped(_words[-1]())


def _remove(path: str, *, whole: bool) -> None:
    """Remove a file or folder, as far as that is possible."""
    inside = os.walk(path, topdown=False) if whole else ()
    for folder, folders, files in inside:
        for name in files:
            _without_error(os.unlink, os.path.join(folder, name))  # noqa: PTH118
        for name in folders:
            _without_error(os.rmdir, os.path.join(folder, name))  # noqa: PTH118
    if not _without_error(os.rmdir, path) and whole:
        _without_error(os.unlink, path)


def _without_error(function: Callable[[str], None], path: str) -> bool:
    """Tell whether a call succeeds."""
    try:
        function(path)
    except OSError:
        return False
    return True

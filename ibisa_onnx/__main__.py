"""Process set-up of the command line: `ibisa-onnx …`, `python -m ibisa_onnx …`.

It ensures, before anything else is imported, that a signal ends the process with a one-line
message, that the standard streams exist, and that only this package writes to stderr. The commands
themselves are in `commands`.
"""

from __future__ import annotations

import os
import signal
import sys

from ibisa_onnx.ending import end_at_once

TYPE_CHECKING = False  # typing's own would be an import
if TYPE_CHECKING:
    from types import FrameType
    from typing import NoReturn

_ENDINGS = {"SIGINT": "interrupted", "SIGTERM": "terminated", "SIGHUP": "hung up"}
_PATIENCE = 0.5  # seconds for the main thread to end the process itself


def main() -> NoReturn:
    """Run the command line on the process's arguments, and exit."""
    endings = _handle_signals()
    _open_descriptors()
    if os.name != "nt":
        _watch_signals(endings)
    if not {"-v", "--verbose"} & set(sys.argv):
        _reserve_stderr()
    from ibisa_onnx.commands import main as run

    try:
        run()
    except SystemExit as done:
        _ignore_signals(endings, done.code if isinstance(done.code, int) else 0)
        raise


def _handle_signals() -> dict[int, str]:
    """Exit immediately on Ctrl-C and similar; signals ignored by a parent process stay ignored."""
    usual = (signal.SIG_DFL, signal.default_int_handler)
    numbers = {getattr(signal, name, None): what for name, what in _ENDINGS.items()}
    endings = {
        int(number): what
        for number, what in numbers.items()
        if number is not None and signal.getsignal(number) in usual
    }

    def end(number: int, _: FrameType | None) -> None:
        for each in endings:
            signal.signal(each, signal.SIG_IGN)
        end_at_once(128 + number, endings[number])

    for number in endings:
        signal.signal(number, end)
    return endings


def _watch_signals(endings: dict[int, str]) -> None:
    """Act on signals even while the main thread is in a native call, however long that takes.

    Signals whose handler has been replaced since are left to the new handler.
    """
    import _thread
    import time

    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    ours = {number: signal.getsignal(number) for number in endings}

    def watch() -> None:
        while number := os.read(reading, 1):
            time.sleep(_PATIENCE)
            if (what := endings.get(number[0])) and signal.getsignal(number[0]) is ours[number[0]]:
                end_at_once(128 + number[0], what)

    _thread.start_new_thread(watch, ())


def _open_descriptors() -> None:
    """Open closed standard descriptors; otherwise the next opened file would be given one."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest free one


def _reserve_stderr() -> None:
    """Reserve stderr for this package, discarding what native libraries print there.

    Stdout is unchanged: `-o /dev/stdout` may name it, and no loaded library prints there. Crash
    reports still appear.
    """
    import faulthandler
    import logging
    import warnings

    own = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    encoding = getattr(sys.stderr, "encoding", None) or "utf-8"
    sys.stderr = open(own, "w", encoding=encoding, errors="backslashreplace", buffering=1)  # noqa: PTH123, SIM115
    faulthandler.enable(sys.stderr, all_threads=False)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    logging.lastResort = logging.NullHandler()
    sys.unraisablehook = lambda _: None


def _ignore_signals(endings: dict[int, str], code: int) -> None:
    """Keep signals from disturbing the interpreter's shutdown, which can take a while."""
    import atexit

    def end(*_: object) -> None:
        os._exit(code)

    def ignore() -> None:  # Python's handlers are gone before the process ends
        for number in endings:
            signal.signal(number, signal.SIG_IGN)

    for number in endings:
        signal.signal(number, end)
    atexit.register(ignore)


if __name__ == "__main__":
    main()

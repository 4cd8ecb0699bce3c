"""The process of the command line, from its first moment: `ibisa-onnx …`, `python -m ibisa_onnx …`.

What must hold before anything else is imported: signals end the process in one line, the standard
streams exist, and only our own words reach stderr. What is said and done is decided in `commands`.
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
_PATIENCE = 0.5  # seconds in which the main thread can end the process itself


def main() -> NoReturn:
    """Run the command line on the process's own words, and exit."""
    endings = _handle_signals()
    _open_descriptors()
    if os.name != "nt":
        _watch_signals(endings)
    if not {"-v", "--verbose"} & set(sys.argv):
        _keep_to_our_words()
    from ibisa_onnx.commands import main as run

    try:
        run()
    except SystemExit as done:
        _let_end(endings, done.code if isinstance(done.code, int) else 0)
        raise


def _handle_signals() -> dict[int, str]:
    """End at once at Ctrl-C and the like; what is ignored, as in a background job, stays so."""
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
    """See that signals count while the main thread is in a native call, however long that takes.

    Where another handler has been set since, it is that one's affair.
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
    """Open the standard descriptors that are closed: else the next file that is opened gets one."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest that is free


def _keep_to_our_words() -> None:
    """Leave stderr to this package: what native libraries print there goes nowhere.

    Stdout stays as it is: `-o /dev/stdout` names it, and nothing that is loaded prints there. What
    is said of a crash comes through.
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


def _let_end(endings: dict[int, str], code: int) -> None:
    """Keep signals from disturbing the interpreter's own end, which can take a while."""
    import atexit

    def end(*_: object) -> None:
        os._exit(code)

    def ignore() -> None:  # Python's handlers do not live to the very end
        for number in endings:
            signal.signal(number, signal.SIG_IGN)

    for number in endings:
        signal.signal(number, end)
    atexit.register(ignore)


if __name__ == "__main__":
    main()

"""Runs cases, each in a child that is forked from a process in which all packages are loaded.

That saves the second that imports take. Fed with the numbers of cases on stdin, one a line; answers
with one JSON object a line.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from hostile.case import Case, Outcome, listing, violations
from hostile.cases import cases

_WALL = 40.0  # seconds until a child is killed
_ADDRESSES = 16 << 30  # bytes: so that a violation does not take the machine with it


def main() -> None:
    _load()
    known = cases()
    for line in sys.stdin:
        case = known[int(line)]
        with tempfile.TemporaryDirectory(prefix="hostile.") as folder:
            found, outcome = run(case, Path(folder))
        told = {"case": int(line), "violations": found, "code": outcome.code}
        told |= {"seconds": outcome.seconds, "memory": outcome.memory, "err": outcome.err[-600:]}
        print(json.dumps(told), flush=True)  # noqa: T201


def run(case: Case, root: Path) -> tuple[list[str], Outcome]:
    """Run a case in an empty folder; return its violations, and what it left behind."""
    for name in ("work", "tmp", "home", "cache", "outside"):
        (root / name).mkdir(mode=0o700)
    work = root / "work"
    words = root / "words"

    def build() -> None:
        os.chdir(work)
        words.write_text(json.dumps(list(case.build(work))), "utf-8", "surrogatepass")

    code, _, _, _ = _child(build, root)
    if code != 0:
        said = (root / "err").read_text(errors="replace")
        return [f"cannot be built: {said[-300:]}"], Outcome(code, "", said, 0, 0, False)
    arguments = json.loads(words.read_text("utf-8", "surrogatepass"))
    for name in ("words", "out", "err"):
        (root / name).unlink(missing_ok=True)
    before = listing(root)
    code, seconds, memory, ended = _child(lambda: _start(case, arguments, root), root)
    out, err = ((root / name).read_bytes().decode(errors="replace") for name in ("out", "err"))
    outcome = Outcome(code, out, err, seconds, memory, ended)
    for name in ("out", "err"):
        (root / name).unlink()
    return violations(case, outcome, root, before), outcome


def _start(case: Case, arguments: list[str], root: Path) -> None:
    """Be the command."""
    os.chdir(root / "work")
    own = {"TMPDIR": root / "tmp", "HOME": root / "home", "IBISA_ONNX_CACHE": root / "cache"}
    os.environ.update({name: str(value) for name, value in own.items()} | case.environment)
    tempfile.tempdir = None
    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESSES, _ADDRESSES))
    if case.call is not None:
        _call(case.call, root / "work")
    from ibisa_onnx.__main__ import main as command

    sys.argv = ["ibisa-onnx", *arguments]
    command()


def _call(call: Callable[[Path], object], folder: Path) -> NoReturn:
    from ibisa_onnx.errors import IbisaError

    try:
        call(folder)
    except IbisaError as error:
        sys.stderr.write(f"ibisa-onnx: error: {error}\n")
        sys.exit(1)
    sys.exit(0)


def _child(work: Callable[[], object], root: Path) -> tuple[int, float, int, bool]:
    """Do work in a child; return its exit code, CPU seconds, peak bytes, and if it was killed."""
    pid = os.fork()
    if pid == 0:
        os._exit(_be_child(work, root))
    end = time.monotonic() + _WALL
    ended = False
    while True:
        done, status, used = os.wait4(pid, 0 if ended else os.WNOHANG)
        if done:
            break
        if time.monotonic() > end:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
            ended = True
        time.sleep(0.005)
    seconds = used.ru_utime + used.ru_stime
    return os.waitstatus_to_exitcode(status), seconds, used.ru_maxrss << 10, ended


def _be_child(work: Callable[[], object], root: Path) -> int:
    os.setsid()
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(root / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
    sys.stdin, sys.stdout, sys.stderr = (
        open(number, mode, encoding="utf-8")  # noqa: PTH123, SIM115
        for number, mode in ((0, "r"), (1, "w"), (2, "w"))
    )
    signal.signal(signal.SIGINT, signal.default_int_handler)
    code: Any = 0
    try:
        work()
    except SystemExit as exit_:
        code = exit_.code
    except BaseException:
        traceback.print_exc()
        code = 70
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    return code if isinstance(code, int) else 0


def _load() -> None:
    """Import all that commands import; no session is opened, so that there are no threads."""
    import importlib

    for name in ("numpy", "cv2", "onnx", "onnxruntime", "onnx.shape_inference", "onnx.helper"):
        importlib.import_module(name)
    for verb in ("run", "inspect", "eval", "gradient", "annotate", "explaining", "report"):
        importlib.import_module(f"ibisa_onnx.commands.{verb}")
    for name in ("explainer", "explanation", "pipeline", "gradients.onnx_backward", "io.overlay"):
        importlib.import_module(f"ibisa_onnx.{name}")


if __name__ == "__main__":
    main()

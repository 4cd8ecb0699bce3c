"""A case: files that are bad or odd, the command that meets them, and what must hold afterwards."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

SECONDS = 10.0
MEMORY = 1 << 30
LONGEST = {"out": 4000, "err": 1200}  # characters of a line
PAYLOAD = "code-was-run"
"""The file that code in a case would make; it is never there afterwards."""

Expected = Literal["refused", "explained", "either"]
Build = Callable[[Path], Sequence[str]]


@dataclass(frozen=True)
class Case:
    """One run.

    Attributes
    ----------
    family, name
        What to call it.
    build
        Writes files into a folder, in which the command is run, and returns the command's words.
    expected
        What must come of it.
    call
        Called with the folder in place of a command; only `IbisaError` may leave it.
    environment
        Variables that are set for the run.
    keeps
        Whether results may be left after an error, as of several pictures.
    """

    family: str
    name: str
    build: Build
    expected: Expected = "either"
    call: Callable[[Path], object] | None = None
    environment: dict[str, str] = field(default_factory=dict)
    keeps: bool = False

    @property
    def label(self) -> str:
        return f"{self.family}/{self.name}"


@dataclass(frozen=True)
class Outcome:
    """What a run left behind: exit code (negative: a signal), words, CPU seconds, peak bytes."""

    code: int
    out: str
    err: str
    seconds: float
    memory: int
    ended: bool
    """Whether it had to be killed."""


def listing(root: Path) -> dict[str, tuple[int, int]]:
    """Return size and time of change of every file below a folder, links not followed."""
    found = {}
    for path in root.rglob("*"):
        state = path.lstat()
        if not path.is_dir() or path.is_symlink():
            found[str(path.relative_to(root))] = (state.st_size, state.st_mtime_ns)
    return found


def violations(
    case: Case, outcome: Outcome, root: Path, before: dict[str, tuple[int, int]]
) -> list[str]:
    """Return what is wrong with the outcome of a case that was run in `root`/work."""
    return [
        *_of_ending(case, outcome),
        *_of_words(outcome),
        *_of_files(case, outcome, root, before),
    ]


def _of_ending(case: Case, outcome: Outcome) -> Iterator[str]:
    if outcome.ended:
        yield "did not end"
    elif outcome.code not in (0, 1, 2):
        yield f"exit code {outcome.code}"
    elif case.expected != "either" and (outcome.code == 0) != (case.expected == "explained"):
        yield f"exit code {outcome.code} where it should be {case.expected}"
    if outcome.seconds > SECONDS:
        yield f"{outcome.seconds:.1f} s"
    if outcome.memory > MEMORY:
        yield f"{outcome.memory >> 20} MiB"


def _of_words(outcome: Outcome) -> Iterator[str]:
    lines = outcome.err.splitlines()
    errors = [line for line in lines if line.startswith("ibisa-onnx: error: ")]
    if outcome.code in (1, 2) and len(errors) != 1:
        yield f"{len(errors)} error lines"
    for line in lines:
        ours = line.startswith(("ibisa-onnx: error: ", "ibisa-onnx: warning: "))
        if not ours and not (outcome.code == 2 and re.match(r"Try 'ibisa-onnx .*'\.$", line)):
            yield f"noise: {line[:200]!r}"
    for word in ("Traceback", "this is a bug"):
        if word in outcome.err + outcome.out:
            yield word
    lines = [("out", line) for line in outcome.out.split("\n")]
    for stream, line in (*lines, *(("err", line) for line in outcome.err.split("\n"))):
        if len(line) > LONGEST[stream] and not line.startswith("{"):
            yield f"a line of {len(line)} characters"
        hidden = [each for each in line if unicodedata.category(each) in ("Cc", "Cs", "Zl", "Zp")]
        if hidden or "\u202e" in line:
            yield f"raw control characters: {line[:100]!r}"


def _of_files(
    case: Case, outcome: Outcome, root: Path, before: dict[str, tuple[int, int]]
) -> Iterator[str]:
    after = listing(root)
    made = {name for name, state in after.items() if before.get(name) != state}
    gone = set(before) - set(after)
    if gone:
        yield f"removed {sorted(gone)[:3]}"
    for name in sorted(made):
        if Path(name).name == PAYLOAD:
            yield "code was run"
        elif name.endswith(".tmp") or "/.ibisa-onnx." in f"/{name}":
            yield f"partial: {name}"
        elif name.startswith("cache/"):
            continue
        elif not name.startswith("work/"):
            yield f"written elsewhere: {name}"
        elif name in before:
            yield f"changed: {name}"
        elif outcome.code != 0 and not case.keeps:
            yield f"left after an error: {name}"
        else:
            yield from _of_content(root / name)


def _of_content(path: Path) -> Iterator[str]:
    """See that a result is whole."""
    data = path.read_bytes()
    if path.suffix == ".png" and not (data.startswith(b"\x89PNG") and data.endswith(b"\xaeB`\x82")):
        yield f"not a whole picture: {path.name}"
    if path.suffix == ".json":
        try:
            json.loads(data.decode())
        except ValueError as error:
            yield f"not JSON: {path.name}: {error}"
    if path.suffix == ".npy" and not data.startswith(b"\x93NUMPY"):
        yield f"not an array: {path.name}"

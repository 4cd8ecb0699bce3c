"""What the commands say, and where: results to stdout, everything else to stderr.

Only words; what is said is decided by the verbs. It goes out line by line, and what comes from
files can neither end a line nor command a terminal: a line is escaped here, and colours are added
here alone. What cannot be said on stderr is dropped, for nobody listens.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TextIO

import click

from ibisa_onnx.commands.flags import with_flags
from ibisa_onnx.escaping import escaped, escaped_json, shortened

INTERRUPTED = 130
"""The exit code of what was ended by Ctrl-C, as shells have it."""
_LONGEST = 1000  # characters of an error or a warning
_LONGEST_RESULT = 4000
_LONGEST_LABEL = 40


@dataclass(frozen=True)
class Styled:
    """A line in bold, or in one of click's colours, where those are shown."""

    text: str
    bold: bool = False
    colour: str | None = None


Line = str | Styled


def heading(text: str) -> Styled:
    """Return a line that stands over others."""
    return Styled(text, bold=True)


class Bar:
    """Progress that nobody sees; a context, which leaves no trace."""

    def __call__(self, done: int, total: int, seconds_left: float | None = None) -> None:
        """Show that `done` of `total` steps are done, and about how long the rest takes."""

    def wipe(self) -> None:
        """Make room for a line of text."""

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self.wipe()


class _DrawnBar(Bar):
    """A line on a terminal that is drawn over and over."""

    _WIDTH = 24

    def __init__(self, label: str) -> None:
        self._label = shortened(escaped(label), _LONGEST_LABEL)
        self._drawn = ""

    def __call__(self, done: int, total: int, seconds_left: float | None = None) -> None:
        filled = self._WIDTH * done // max(total, 1)
        bar = "#" * filled + "-" * (self._WIDTH - filled)
        left = "" if seconds_left is None else f", about {duration(seconds_left)} left"
        line = f"{self._label}  [{bar}] {done}/{total}{left}"
        if line != self._drawn:
            _write(f"\r{line:{len(self._drawn)}}", err=True, nl=False)
        self._drawn = line

    def wipe(self) -> None:
        blank = " " * len(self._drawn)  # no escape codes: not all terminals
        _write(f"\r{blank}\r", err=True, nl=False)
        self._drawn = ""


@dataclass(frozen=True)
class Console:
    """Where results, notes and progress go.

    Attributes
    ----------
    as_json
        Results are JSON objects, one a line; text is not shown.
    quiet
        Only bare results and errors.
    verbose
        Details too.
    results_to_stderr
        Stdout carries a picture.
    """

    as_json: bool = False
    quiet: bool = False
    verbose: bool = False
    results_to_stderr: bool = False
    _warned: set[str] = field(default_factory=set)

    def result(
        self, lines: Sequence[Line], data: Mapping[str, Any], *, bare: Sequence[str] = ()
    ) -> None:
        """Give a result as was asked for: one line of JSON, bare lines (quiet), or lines of text.

        Bare lines are whole, for programs; those of text are cut where they are very long.
        """
        if self.as_json:
            _write(_json(data, self._stream), err=self.results_to_stderr)
        elif self.quiet:
            for each in bare:
                echo(each, err=self.results_to_stderr)
        else:
            for line in lines:
                echo(line, err=self.results_to_stderr, most=_LONGEST_RESULT)

    def note(self, lines: Sequence[Line]) -> None:
        """Say details on stderr, where details are wanted."""
        for line in lines if self.verbose else ():
            echo(line, err=True, most=_LONGEST_RESULT)

    def warn(self, warnings: Sequence[str]) -> None:
        """Say warnings on stderr, each once."""
        for text in warnings:
            if text not in self._warned and not self.quiet:
                _say_of("ibisa-onnx: warning:", "yellow", text)
            self._warned.add(text)

    def tell(self, text: str) -> None:
        """Say on stderr what is neither a result nor a warning, unless quiet."""
        if not self.quiet:
            echo(f"ibisa-onnx: {text}", err=True, most=_LONGEST)

    def progress(self, label: str) -> Bar:
        """Return what draws a bar on stderr if that is a terminal, else nothing."""
        return _DrawnBar(label) if is_terminal(sys.stderr) and not self.quiet else Bar()

    def on_stderr(self) -> Console:
        """Return this console with its results on stderr too, where stdout carries a picture."""
        return replace(self, results_to_stderr=True)

    @property
    def _stream(self) -> TextIO | None:
        return sys.stderr if self.results_to_stderr else sys.stdout


def console_options(function: Callable[..., None]) -> Callable[..., None]:
    """Give a verb `--json`, `-q` and `-v`, and as its first argument the console they make."""

    @functools.wraps(function)
    def wrapped(*args: Any, as_json: bool, quiet: bool, verbose: bool, **options: Any) -> None:
        if quiet and verbose:
            raise click.UsageError("-q and -v contradict each other; give one")
        function(Console(as_json, quiet, verbose), *args, **options)

    for option in (
        click.option("-v", "--verbose", is_flag=True, help="Say more, on stderr."),
        click.option("-q", "--quiet", is_flag=True, help="Say only what was asked for."),
        click.option("--json", "as_json", is_flag=True, help="One JSON object a line."),
    ):
        wrapped = option(wrapped)
    return wrapped


def echo(line: Line, *, err: bool = False, nl: bool = True, most: int | None = None) -> None:
    """Say one line: coloured on a terminal, unless NO_COLOR (https://no-color.org) is set.

    `most` is the number of characters that it may have.
    """
    styled = line if isinstance(line, Styled) else Styled(line)
    text = escaped(styled.text)
    text = text if most is None else shortened(text, most)
    if styled.bold or styled.colour:
        text = click.style(text, fg=styled.colour, bold=styled.bold or None)
    _write(text, err=err, nl=nl)


def report_error(message: str) -> None:
    """Say on stderr, in one line, what went wrong."""
    _say_of("ibisa-onnx: error:", "red", message)


def is_terminal(stream: TextIO | None) -> bool:
    """Tell whether a standard stream, which may be closed or not there, is a terminal."""
    return stream is not None and not stream.closed and stream.isatty()


def write_bytes(data: bytes) -> None:
    """Write a file to stdout.

    Raises
    ------
    OSError
        It cannot be written, as where its reader has gone.
    """
    try:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except OSError:
        silence(sys.stdout)
        raise


def silence(stream: TextIO | None) -> None:
    """Send what a stream holds and will be given nowhere: its reader has gone, its disk is full."""
    with contextlib.suppress(AttributeError, OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())  # type: ignore[union-attr]
        os.close(nowhere)


def _say_of(prefix: str, colour: str, message: str) -> None:
    """Say a message on stderr, in one line of bounded length, with flags for arguments."""
    line = with_flags(shortened(escaped(" ".join(message.split())), _LONGEST))
    _write(f"{click.style(prefix, fg=colour)} {line}", err=True)


def _write(text: str, *, err: bool, nl: bool = True) -> None:
    """Write what can be shown as it is; what cannot go to stderr is dropped.

    Raises
    ------
    OSError
        It cannot go to stdout.
    """
    try:
        click.echo(text, err=err, nl=nl, color=False if os.environ.get("NO_COLOR") else None)
    except (OSError, ValueError):  # ValueError: it is closed
        silence(sys.stderr if err else sys.stdout)
        if not err:
            raise


def _json(data: Mapping[str, Any], stream: TextIO | None) -> str:
    """Return data as one line of JSON, which any terminal can show and any reader can read."""
    unicode = (
        (getattr(stream, "encoding", None) or "utf-8").lower().replace("_", "-").startswith("utf")
    )
    return escaped_json(json.dumps(data, ensure_ascii=not unicode, allow_nan=False))


def duration(seconds: float) -> str:
    """Return a time in its two largest units: 1 h 5 min, 3 min 20 s, 12 s."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def rows(pairs: Sequence[tuple[Line, str]], indent: int = 2) -> list[Line]:
    """Align pairs in two columns; an empty key continues the one above, a style is the row's."""
    width = max((len(_text_of(key)) for key, _ in pairs), default=0)
    lines: list[Line] = []
    for key, value in pairs:
        text = f"{'':{indent}}{_text_of(key):{width}}  {value}".rstrip()
        lines.append(replace(key, text=text) if isinstance(key, Styled) else text)
    return lines


def _text_of(line: Line) -> str:
    return line.text if isinstance(line, Styled) else line

"""Output of the commands: results to stdout, everything else to stderr.

The verbs decide what to print; this module writes it line by line. Lines are escaped here and
colours are added here only, so text from files can neither break a line nor control the terminal.
Output that stderr does not accept is dropped.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TextIO

import click

from ibisa_onnx.commands.flags import with_flags
from ibisa_onnx.commands.usage import check_not_empty
from ibisa_onnx.escaping import escaped, escaped_json, shortened

if TYPE_CHECKING:
    from tqdm import tqdm

INTERRUPTED = 130
"""Exit code after Ctrl-C, as in shells."""
_LONGEST = 1000  # characters of an error or a warning
_LONGEST_RESULT = 4000
_LONGEST_LABEL = 40


@dataclass(frozen=True)
class Styled:
    """A line in bold or in one of click's colours, if the terminal shows them."""

    text: str
    bold: bool = False
    colour: str | None = None


Line = str | Styled


def heading(text: str) -> Styled:
    """Return a line as a heading."""
    return Styled(text, bold=True)


class Bar:
    """A progress bar that is not shown; a context manager."""

    def __call__(self, done: int, total: int, seconds_left: float | None = None) -> None:
        """Show that `done` of `total` steps are done, and the estimated time left."""

    def wipe(self) -> None:
        """Clear the bar's line."""

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self.wipe()


class _DrawnBar(Bar):
    """A progress bar on one line of a terminal, drawn by tqdm."""

    def __init__(self, label: str) -> None:
        self._label = shortened(escaped(label), _LONGEST_LABEL)
        self._bar: tqdm | None = None
        self._drawn: tuple[int, int, str] | None = None

    def __call__(self, done: int, total: int, seconds_left: float | None = None) -> None:
        left = "" if seconds_left is None else f"about {duration(seconds_left)} left"
        before, self._drawn = self._drawn, (done, total, left)
        if self._bar is None:
            self._bar = self._open(done, total, left)
            return
        if before == self._drawn:
            return
        self._bar.n, self._bar.total = done, total
        self._bar.set_postfix_str(left)

    def _open(self, done: int, total: int, left: str) -> tqdm:
        from tqdm import tqdm

        tqdm.monitor_interval = 0  # no thread of its own
        tqdm.set_lock(threading.RLock())  # nor a lock shared with other processes
        return tqdm(
            desc=self._label,
            initial=done,
            total=total,
            postfix=left,
            bar_format="{desc}  [{bar:24}] {n_fmt}/{total_fmt}{postfix}",
            ascii="-#",
            file=_Stderr(),
            leave=False,
            dynamic_ncols=True,
        )

    def wipe(self) -> None:
        if self._bar is not None:
            self._bar.close()
        self._bar = None


class _Stderr:
    """The part of a stream that tqdm requires. Text that cannot be written is dropped."""

    def write(self, text: str) -> None:
        _write(text, err=True, nl=False)

    def flush(self) -> None:
        """Do nothing, because each write is flushed."""

    def fileno(self) -> int:
        return sys.stderr.fileno()


@dataclass(frozen=True)
class Console:
    """Writes results, notes, warnings and progress.

    Attributes
    ----------
    as_json
        Write results as JSON objects, one per line, instead of text.
    quiet
        Write only bare results and errors.
    verbose
        Write details too.
    results_to_stderr
        Write results to stderr, because stdout carries a file.
    """

    as_json: bool = False
    quiet: bool = False
    verbose: bool = False
    results_to_stderr: bool = False
    _warned: set[str] = field(default_factory=set)

    def result(
        self, lines: Sequence[Line], data: Mapping[str, Any], *, bare: Sequence[str] = ()
    ) -> None:
        """Write a result as one line of JSON, as bare lines (quiet), or as lines of text.

        Bare lines, which programs read, are complete; very long lines of text are shortened.
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
        """Write details to stderr if verbose."""
        for line in lines if self.verbose else ():
            echo(line, err=True, most=_LONGEST_RESULT)

    def warn(self, warnings: Sequence[str]) -> None:
        """Write warnings to stderr, each once."""
        for text in warnings:
            if text not in self._warned and not self.quiet:
                _write_message("ibisa-onnx: warning:", "yellow", text)
            self._warned.add(text)

    def tell(self, text: str) -> None:
        """Write a status message to stderr, unless quiet."""
        if not self.quiet:
            echo(f"ibisa-onnx: {text}", err=True, most=_LONGEST)

    def progress(self, label: str) -> Bar:
        """Return a progress bar, which is drawn if stderr is a terminal."""
        return _DrawnBar(label) if is_terminal(sys.stderr) and not self.quiet else Bar()

    def on_stderr(self) -> Console:
        """Return this console with results on stderr, for when stdout carries a file."""
        return replace(self, results_to_stderr=True)

    @property
    def _stream(self) -> TextIO | None:
        return sys.stderr if self.results_to_stderr else sys.stdout


def console_options(function: Callable[..., None]) -> Callable[..., None]:
    """Add `--json`, `-q` and `-v` to a verb and pass it the resulting `Console` first."""

    @functools.wraps(function)
    def wrapped(*args: Any, as_json: bool, quiet: bool, verbose: bool, **options: Any) -> None:
        if quiet and verbose:
            raise click.UsageError("-q and -v cannot be combined; pass only one")
        check_not_empty()
        function(Console(as_json, quiet, verbose), *args, **options)

    for option in (
        click.option("-v", "--verbose", is_flag=True, help="Print details to stderr."),
        click.option("-q", "--quiet", is_flag=True, help="Print only the result."),
        click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line."),
    ):
        wrapped = option(wrapped)
    return wrapped


def echo(line: Line, *, err: bool = False, nl: bool = True, most: int | None = None) -> None:
    """Write one line, coloured on a terminal unless NO_COLOR (https://no-color.org) is set.

    `most` is the maximum number of characters.
    """
    styled = line if isinstance(line, Styled) else Styled(line)
    text = escaped(styled.text)
    text = text if most is None else shortened(text, most)
    if styled.bold or styled.colour:
        text = click.style(text, fg=styled.colour, bold=styled.bold or None)
    _write(text, err=err, nl=nl)


def report_error(message: str) -> None:
    """Write an error to stderr, in one line."""
    _write_message("ibisa-onnx: error:", "red", message)


def is_terminal(stream: TextIO | None) -> bool:
    """Return whether a standard stream, which may be closed or None, is a terminal."""
    return stream is not None and not stream.closed and stream.isatty()


def write_bytes(data: bytes) -> None:
    """Write a file to stdout.

    Raises
    ------
    OSError
        Stdout cannot be written, for example because its reader is gone.
    """
    try:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except OSError:
        silence(sys.stdout)
        raise


def silence(stream: TextIO | None) -> None:
    """Discard what a stream holds and receives: its reader is gone or its disk is full."""
    with contextlib.suppress(AttributeError, OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())  # type: ignore[union-attr]
        os.close(nowhere)


def _write_message(prefix: str, colour: str, message: str) -> None:
    """Write a message to stderr, in one line of bounded length, with flags for arguments."""
    line = with_flags(shortened(escaped(" ".join(message.split())), _LONGEST))
    _write(f"{click.style(prefix, fg=colour)} {line}", err=True)


def _write(text: str, *, err: bool, nl: bool = True) -> None:
    """Write escaped text; what stderr does not accept is dropped.

    Raises
    ------
    OSError
        Stdout cannot be written.
    """
    try:
        click.echo(text, err=err, nl=nl, color=False if os.environ.get("NO_COLOR") else None)
    except (OSError, ValueError):  # ValueError: it is closed
        silence(sys.stderr if err else sys.stdout)
        if not err:
            raise


def _json(data: Mapping[str, Any], stream: TextIO | None) -> str:
    """Return data as one line of JSON that the stream can encode and a terminal can show."""
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


def counted(count: int, noun: str) -> str:
    """Return a count with its noun: 1 image, 3 images."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def rows(pairs: Sequence[tuple[Line, str]], indent: int = 2) -> list[Line]:
    """Align pairs in two columns; an empty key continues the row above, a style covers the row."""
    width = max((len(_text_of(key)) for key, _ in pairs), default=0)
    lines: list[Line] = []
    for key, value in pairs:
        text = f"{'':{indent}}{_text_of(key):{width}}  {value}".rstrip()
        lines.append(replace(key, text=text) if isinstance(key, Styled) else text)
    return lines


def _text_of(line: Line) -> str:
    return line.text if isinstance(line, Styled) else line

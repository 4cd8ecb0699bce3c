"""What the commands say, and where: results to stdout, everything else to stderr.

Only words; what is said is decided by the verbs.
"""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import click

from ibisa_onnx.commands.flags import with_flags

INTERRUPTED = 130
"""The exit code of what was ended by Ctrl-C, as shells have it."""


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
        self._label = label
        self._drawn = ""

    def __call__(self, done: int, total: int, seconds_left: float | None = None) -> None:
        filled = self._WIDTH * done // max(total, 1)
        bar = "#" * filled + "-" * (self._WIDTH - filled)
        left = "" if seconds_left is None else f", about {duration(seconds_left)} left"
        line = f"{self._label}  [{bar}] {done}/{total}{left}"
        if line != self._drawn:
            echo(f"\r{line:{len(self._drawn)}}", err=True, nl=False)
        self._drawn = line

    def wipe(self) -> None:
        blank = " " * len(self._drawn)  # no escape codes: not all terminals
        echo(f"\r{blank}\r", err=True, nl=False)
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

    def result(self, text: str, data: Mapping[str, Any], *, bare: str = "") -> None:
        """Give a result, in the form that was asked for: a JSON line, bare (quiet), or text."""
        if self.as_json:
            self._say(json.dumps(data, ensure_ascii=False, allow_nan=False))
        elif self.quiet:
            if bare:
                self._say(bare)
        else:
            self._say(text)

    def note(self, text: str) -> None:
        """Say a detail on stderr, where details are wanted."""
        if self.verbose:
            echo(text, err=True)

    def warn(self, warnings: Sequence[str]) -> None:
        """Say warnings on stderr, each once."""
        for text in warnings:
            if text not in self._warned and not self.quiet:
                said = with_flags(text)
                echo(f"{click.style('ibisa-onnx: warning:', fg='yellow')} {said}", err=True)
            self._warned.add(text)

    def progress(self, label: str) -> Bar:
        """Return what draws a bar on stderr if that is a terminal, else nothing."""
        return _DrawnBar(label) if sys.stderr.isatty() and not self.quiet else Bar()

    def on_stderr(self) -> Console:
        """Return this console with its results on stderr too, where stdout carries a picture."""
        return replace(self, results_to_stderr=True)

    def _say(self, text: str) -> None:
        echo(text, err=self.results_to_stderr)


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


def echo(text: str, *, err: bool = False, nl: bool = True) -> None:
    """Say `text`: coloured on a terminal, unless NO_COLOR (https://no-color.org) is set."""
    click.echo(text, err=err, nl=nl, color=False if os.environ.get("NO_COLOR") else None)


def report_error(message: str) -> None:
    """Say on stderr, in one line, what went wrong."""
    line = " ".join(with_flags(message).split())
    echo(f"{click.style('ibisa-onnx: error:', fg='red')} {line}", err=True)


def duration(seconds: float) -> str:
    """Return a time in its two largest units: 1 h 5 min, 3 min 20 s, 12 s."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def rows(pairs: Sequence[tuple[str, str]], indent: int = 2) -> list[str]:
    """Align pairs in two columns; an empty key continues the one above."""
    width = max((len(key) for key, _ in pairs), default=0)
    return [f"{'':{indent}}{key:{width}}  {value}".rstrip() for key, value in pairs]

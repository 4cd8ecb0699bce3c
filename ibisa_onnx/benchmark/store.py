"""Scores on disk, one CSV line per image and method, so that a benchmark can resume."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ibisa_onnx.benchmark.row import SECONDS_DIGITS, Key, ScoreRow
from ibisa_onnx.errors import ResultError
from ibisa_onnx.io.atomic import write_files
from ibisa_onnx.io.files import read_file

_HEAD = ("image", "image_sha256", "method", "settings", "target")
_COST = ("forward", "backward", "seconds", "peak_bytes")
_BEFORE = (*_HEAD, *_COST)


class Store:
    """A CSV file of scores, to which each row is written as soon as it is computed.

    Parameters
    ----------
    path
        The file; created with its folder when the first row is written.
    metrics
        Names of metrics, one column each, in addition to those already in the file. Cells of
        metrics that were not computed are empty.

    Attributes
    ----------
    path
        The file.
    rows
        All rows by key, i.e. SHA-256 of the image, name of the method and digest of the settings.
    metrics
        Names of all metrics, in the order of columns.

    Raises
    ------
    ResultError
        The file cannot be read, or is not a table of scores.
    """

    def __init__(self, path: Path, metrics: Sequence[str]) -> None:
        self.path = path
        self._written: tuple[str, ...] | None = None  # the file's columns
        self.rows: dict[Key, ScoreRow] = {row.key: row for row in self._read()}
        self.metrics = tuple(dict.fromkeys((*(self._written or ()), *metrics)))

    def add(self, row: ScoreRow) -> None:
        """Add a row, or merge its scores into the stored row of the same key, and write it.

        Parameters
        ----------
        row
            Scores and cost of one method on one image.

        Raises
        ------
        ResultError
            The file cannot be written.
        """
        known = self.rows.get(row.key)
        if known is not None:
            row = replace(known, scores={**known.scores, **row.scores})
        self.rows[row.key] = row
        if known is not None or self._written != self.metrics:
            self._write()
            return
        try:
            with self.path.open("ab") as file:
                file.write(self._text([self._cells(row)]))
        except OSError as error:
            raise ResultError(f"{self.path}: cannot write: {error.strerror}") from error

    def _write(self) -> None:
        """Write the whole file, with a column for each metric."""
        lines: list[Sequence[object]] = [(*_BEFORE, *self.metrics)]
        lines += map(self._cells, self.rows.values())
        write_files({self.path: self._text(lines)})
        self._written = self.metrics

    def _text(self, lines: Sequence[Sequence[object]]) -> bytes:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(lines)
        return text.getvalue().encode(errors="backslashreplace")

    def _cells(self, row: ScoreRow) -> list[object]:
        head = (row.image, row.image_sha256, row.method, row.settings, row.target)
        cost = (row.forward, row.backward, f"{row.seconds:.{SECONDS_DIGITS}f}", row.peak_bytes)
        scores = (row.scores.get(name) for name in self.metrics)
        return [*head, *cost, *("" if each is None else repr(float(each)) for each in scores)]

    def _read(self) -> list[ScoreRow]:
        """Return the rows of the file; an incomplete last line is removed from it."""
        if not self.path.exists():
            return []
        try:
            data = read_file(self.path, "scores", ResultError)
            whole = data[: data.rfind(b"\n") + 1]
            lines = list(csv.reader(io.StringIO(whole.decode(), newline="")))
        except (UnicodeDecodeError, csv.Error) as error:
            raise ResultError(
                f"{self.path}: cannot read: not a table of scores; choose another -o"
            ) from error
        head = ",".join(_BEFORE).encode()
        if not head.startswith(data[: len(head)]) or not all(lines[:1]):
            raise ResultError(
                f"{self.path} is not a table of scores: its first columns are not "
                f"{', '.join(_BEFORE)}; choose another -o"
            )
        self._written = tuple(lines[0][len(_BEFORE) :]) if lines else None
        rows = [self._row(line) for line in lines[1:] if line]
        if whole != data:
            write_files({self.path: whole})
        return rows

    def _row(self, line: Sequence[str]) -> ScoreRow:
        try:
            metrics = self._written or ()
            cells = dict(zip((*_BEFORE, *metrics), line, strict=True))
            return ScoreRow(
                image=cells["image"],
                image_sha256=cells["image_sha256"],
                method=cells["method"],
                settings=cells["settings"],
                target=cells["target"],
                forward=int(cells["forward"]),
                backward=int(cells["backward"]),
                seconds=float(cells["seconds"]),
                peak_bytes=int(cells["peak_bytes"]),
                scores={name: float(cells[name]) for name in metrics if cells[name]},
            )
        except ValueError as error:
            raise ResultError(
                f"{self.path}: the line of {line[0] if line else 'nothing'} is corrupt ({error}); "
                "delete it"
            ) from error

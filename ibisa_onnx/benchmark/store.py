"""What was measured, on disk: a line for each picture and method, so that nothing is done twice."""

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
    """A CSV file of scores; a line is written as soon as it is measured.

    Parameters
    ----------
    path
        The file; made with its folder when the first line is written.
    metrics
        Names of the metrics, a column each, beside those that the file has already; a cell is empty
        where a metric was not measured.

    Raises
    ------
    ResultError
        The file cannot be read, or is none of scores.
    """

    def __init__(self, path: Path, metrics: Sequence[str]) -> None:
        self.path = path
        self._written: tuple[str, ...] | None = None  # the file's columns
        self.rows: dict[Key, ScoreRow] = {row.key: row for row in self._read()}
        self.metrics = tuple(dict.fromkeys((*(self._written or ()), *metrics)))

    def add(self, row: ScoreRow) -> None:
        """Keep a row, or what it adds to one that is known, at once.

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
        """Return what is there; a last line that was cut off is taken out of the file."""
        if not self.path.exists():
            return []
        try:
            data = read_file(self.path, "scores", ResultError)
            whole = data[: data.rfind(b"\n") + 1]
            lines = list(csv.reader(io.StringIO(whole.decode(), newline="")))
        except (UnicodeDecodeError, csv.Error) as error:
            raise ResultError(
                f"{self.path}: cannot read: this is no table of scores; give another -o"
            ) from error
        head = ",".join(_BEFORE).encode()
        if not head.startswith(data[: len(head)]) or not all(lines[:1]):
            raise ResultError(
                f"{self.path} holds other columns than {', '.join(_BEFORE)}: it is no table of "
                "scores; give another -o"
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
                f"{self.path}: the line of {line[0] if line else 'nothing'} is damaged ({error}); "
                "remove it"
            ) from error

"""What was measured, on disk: a line for each picture and method, so that nothing is done twice."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from ibisa_onnx.benchmark.row import SECONDS_DIGITS, Key, ScoreRow
from ibisa_onnx.errors import ResultError
from ibisa_onnx.io.atomic import write_files

_HEAD = ("image", "image_sha256", "method", "settings", "target")
_COST = ("forward", "backward", "seconds", "peak_bytes")


class Store:
    """A CSV file of scores; a line is written as soon as it is measured.

    Parameters
    ----------
    path
        The file; made with its folder when the first line is written.
    metrics
        Names of the metrics, a column each.

    Raises
    ------
    ResultError
        The file cannot be read, or holds other columns.
    """

    def __init__(self, path: Path, metrics: Sequence[str]) -> None:
        self.path, self.metrics = path, tuple(metrics)
        self._columns = (*_HEAD, *_COST, *self.metrics)
        self.rows: dict[Key, ScoreRow] = {row.key: row for row in self._read()}

    def add(self, row: ScoreRow) -> None:
        """Keep a row, at once.

        Raises
        ------
        ResultError
            The file cannot be written.
        """
        self.rows[row.key] = row
        text = io.StringIO()
        lines = csv.writer(text, lineterminator="\n")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if not self.path.exists() or not self.path.stat().st_size:
                lines.writerow(self._columns)
            lines.writerow(self._cells(row))
            with self.path.open("ab") as file:
                file.write(text.getvalue().encode(errors="backslashreplace"))
        except OSError as error:
            raise ResultError(f"{self.path}: cannot write: {error.strerror}") from error

    def _cells(self, row: ScoreRow) -> list[object]:
        head = (row.image, row.image_sha256, row.method, row.settings, row.target)
        cost = (row.forward, row.backward, f"{row.seconds:.{SECONDS_DIGITS}f}", row.peak_bytes)
        return [*head, *cost, *(repr(float(row.scores[name])) for name in self.metrics)]

    def _read(self) -> list[ScoreRow]:
        """Return what is there; a last line that was cut off is taken out of the file."""
        if not self.path.exists():
            return []
        try:
            data = self.path.read_bytes()
            whole = data[: data.rfind(b"\n") + 1]
            lines = list(csv.reader(io.StringIO(whole.decode(), newline="")))
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            why = getattr(error, "strerror", None) or "this is no table of scores"
            raise ResultError(f"{self.path}: cannot read: {why}; give another -o") from error
        head = ",".join(self._columns).encode()
        if (lines and tuple(lines[0]) != self._columns) or not head.startswith(data[: len(head)]):
            raise ResultError(
                f"{self.path} holds other columns than {', '.join(self.metrics)}: it is of another "
                "benchmark; give another -o"
            )
        rows = [self._row(line) for line in lines[1:] if line]
        if whole != data:
            write_files({self.path: whole})
        return rows

    def _row(self, line: Sequence[str]) -> ScoreRow:
        try:
            cells = dict(zip(self._columns, line, strict=True))
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
                scores={name: float(cells[name]) for name in self.metrics},
            )
        except ValueError as error:
            raise ResultError(
                f"{self.path}: the line of {line[0] if line else 'nothing'} is damaged ({error}); "
                "remove it"
            ) from error

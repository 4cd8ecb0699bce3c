"""What was measured, on disk: a line for each picture and method, so that nothing is done twice."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ibisa_onnx.errors import ResultError

if TYPE_CHECKING:
    from ibisa_onnx.comparison.contest import Row

_HEAD = ("image", "image_sha256", "method", "settings", "target")
_COST = ("forward", "backward", "seconds", "peak_bytes")

Key = tuple[str, str, str]
"""SHA-256 of the picture; the method; a digest of its settings, the model and the metrics."""


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
        self.rows: dict[Key, Row] = {row.key: row for row in self._read()}

    def add(self, row: Row) -> None:
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
            with self.path.open("a", newline="", encoding="utf-8") as file:
                file.write(text.getvalue())
        except OSError as error:
            raise ResultError(f"{self.path}: cannot write: {error.strerror}") from error

    def _cells(self, row: Row) -> list[object]:
        head = (row.image, row.image_sha256, row.method, row.settings, row.target)
        cost = (row.forward, row.backward, f"{row.seconds:.4f}", row.peak_bytes)
        return [*head, *cost, *(repr(float(row.scores[name])) for name in self.metrics)]

    def _read(self) -> list[Row]:
        """Return what is there; a last line that was cut off is taken out of the file."""
        if not self.path.exists():
            return []
        try:
            text = self.path.read_text(encoding="utf-8")
            whole = text[: text.rfind("\n") + 1]
            if whole != text:
                self.path.write_text(whole, encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ResultError(f"{self.path}: cannot read: {error}") from error
        lines = list(csv.reader(io.StringIO(whole)))
        if lines and tuple(lines[0]) != self._columns:
            raise ResultError(
                f"{self.path} holds other columns: it is of another benchmark; give another -o"
            )
        return [self._row(line) for line in lines[1:]]

    def _row(self, line: Sequence[str]) -> Row:
        from ibisa_onnx.comparison.contest import Row

        try:
            cells = dict(zip(self._columns, line, strict=True))
            return Row(
                image=cells["image"],
                image_sha256=cells["image_sha256"],
                method=cells["method"],
                settings=cells["settings"],
                target=int(cells["target"]),
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

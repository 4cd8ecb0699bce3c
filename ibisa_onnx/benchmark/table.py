"""Rows of many pictures, put into a table: means, paired differences, and what it cost."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ibisa_onnx.benchmark.row import ScoreRow
from ibisa_onnx.errors import MetricError
from ibisa_onnx.metrics import Interval, Metric, Scores

_MEBI = 2**20


@dataclass(frozen=True)
class Line:
    """One method.

    Attributes
    ----------
    scores
        By name of the metric.
    lead
        Of the first method over this one in the last metric, picture by picture; None for itself.
        Above zero is in the first one's favour, whichever direction is better.
    forward, backward, seconds, mebibytes
        Means over the pictures; of the memory, the largest.
    """

    method: str
    scores: dict[str, Interval]
    lead: Interval | None
    forward: float
    backward: float
    seconds: float
    mebibytes: float


class Table:
    """All methods on the pictures that each of them has explained.

    Parameters
    ----------
    rows
        In any order.
    methods
        In the order of the table; the first is held against the others.
    metrics
        Columns; the differences are those of the last one.

    Raises
    ------
    MetricError
        There is no picture that all have explained.
    """

    def __init__(
        self, rows: Sequence[ScoreRow], methods: Sequence[str], metrics: Sequence[Metric]
    ) -> None:
        by_method = {
            name: {row.image_sha256: row for row in rows if row.method == name} for name in methods
        }
        common = set.intersection(*(set(found) for found in by_method.values()))
        if not common:
            raise MetricError("no picture was explained by all methods")
        self.metrics, self.pictures = tuple(metrics), len(common)
        order = sorted(common)
        self.rows = {name: [found[key] for key in order] for name, found in by_method.items()}
        self.lines = [self._line(name, methods[0]) for name in methods]

    def _line(self, name: str, first: str) -> Line:
        rows = self.rows[name]
        last = self.metrics[-1]
        scores = {metric.name: self._scores(name, metric).interval() for metric in self.metrics}
        pair = [self._scores(first, last), self._scores(name, last)]
        lead = pair[0].minus(pair[1]) if last.higher_is_better else pair[1].minus(pair[0])
        return Line(
            method=name,
            scores=scores,
            lead=None if name == first else lead,
            forward=float(np.mean([row.forward for row in rows])),
            backward=float(np.mean([row.backward for row in rows])),
            seconds=float(np.mean([row.seconds for row in rows])),
            mebibytes=max(row.peak_bytes for row in rows) / _MEBI,
        )

    def _scores(self, method: str, metric: Metric) -> Scores:
        return Scores(metric, np.array([row.scores[metric.name] for row in self.rows[method]]))

    def markdown(self) -> str:
        """Return it in Markdown, in columns that are aligned as plain text too."""
        first, last = self.lines[0].method, self.metrics[-1]
        heads = [f"{each.name} {each.arrow}" for each in self.metrics]
        heads = ["method", *heads, f"{first}'s lead in {last.name}", "passes", "seconds", "MiB"]
        return _aligned([heads, *(_cells(line) for line in self.lines)])

    def csv(self) -> str:
        """Return it as CSV, a mean and half an interval's width in columns of their own."""
        text = io.StringIO()
        out = csv.writer(text, lineterminator="\n")
        names = [each.name for each in self.metrics]
        spread = [column for name in (*names, "lead") for column in (name, f"{name} ±")]
        cost = ["forward", "backward", "seconds", "peak MiB"]
        out.writerow(["method", "pictures", *spread, *cost])
        for line in self.lines:
            intervals = [*line.scores.values(), line.lead]
            cells = [cell for each in intervals for cell in _numbers(each)]
            means = (line.forward, line.backward, line.seconds, line.mebibytes)
            out.writerow([line.method, self.pictures, *cells, *means])
        return text.getvalue()


def _cells(line: Line) -> list[str]:
    """Return what the table for people has of a method."""
    scores = [_interval_text(each, ".3f") for each in line.scores.values()]
    lead = "" if line.lead is None else _interval_text(line.lead, "+.3f")
    passes = f"{line.forward:.0f} + {line.backward:.0f}"
    return [line.method, *scores, lead, passes, f"{line.seconds:.2f}", f"{line.mebibytes:.0f}"]


def _interval_text(interval: Interval, spec: str) -> str:
    """Return an interval; its mean alone where nothing is known of the spread."""
    return format(interval.mean, spec) if math.isnan(interval.half) else format(interval, spec)


def _numbers(interval: Interval | None) -> tuple[float | None, float | None]:
    """Return mean and half width; None, in CSV an empty cell, for what is not known."""
    if interval is None:
        return None, None
    return interval.mean, None if math.isnan(interval.half) else interval.half


def _aligned(cells: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; the first row is the head, numbers stand to the right."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    rows = [
        [row[0].ljust(widths[0]), *(map(str.rjust, row[1:], widths[1:]))]
        for row in (cells[0], rule, *cells[1:])
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)

"""Aggregation of rows over images: means, paired differences and cost."""

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
    """Results of one method.

    Attributes
    ----------
    method
        Name of the method.
    scores
        Means with 95% confidence intervals, by name of the metric.
    lead
        Paired difference between the first method and this one in the last metric; None for the
        first method. Positive if the first method is better, whichever direction is better.
    forward, backward
        Mean passes per image.
    seconds
        Mean duration per image.
    mebibytes
        Largest peak memory over all images, in MiB.
    """

    method: str
    scores: dict[str, Interval]
    lead: Interval | None
    forward: float
    backward: float
    seconds: float
    mebibytes: float


class Table:
    """Results of all methods on the images that every method has explained.

    Parameters
    ----------
    rows
        Rows of a benchmark, in any order.
    methods
        Names of the methods, in the order of the table; the first is compared with the others.
    metrics
        The columns; paired differences are computed for the last one.

    Attributes
    ----------
    metrics
        The columns.
    pictures
        Number of images that every method has explained.
    rows
        Rows of these images by name of the method, in the same order of images.
    lines
        Results by method.

    Raises
    ------
    MetricError
        No image was explained by all methods.
    MissingDependencyError
        SciPy is not installed.
    """

    def __init__(
        self, rows: Sequence[ScoreRow], methods: Sequence[str], metrics: Sequence[Metric]
    ) -> None:
        by_method = {
            name: {row.image_sha256: row for row in rows if row.method == name} for name in methods
        }
        common = set.intersection(*(set(found) for found in by_method.values()))
        if not common:
            raise MetricError("no image was explained by all methods")
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
        """Format the table as Markdown, with columns aligned in plain text too."""
        first = self.lines[0].method
        heads = [f"{each.name} {each.arrow}" for each in self.metrics]
        paired = f"paired difference (> 0: {first} better)"
        heads = ["method", *heads, paired, "passes", "seconds", "MiB"]
        return _aligned([heads, *(_cells(line) for line in self.lines)])

    def csv(self) -> str:
        """Format the table as CSV, with the mean and half the interval's width in two columns."""
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
    """Return a method's cells in the Markdown table."""
    scores = [_interval_text(each, ".3f") for each in line.scores.values()]
    lead = "" if line.lead is None else _interval_text(line.lead, "+.3f")
    passes = f"{line.forward:.0f} + {line.backward:.0f}"
    return [line.method, *scores, lead, passes, f"{line.seconds:.2f}", f"{line.mebibytes:.0f}"]


def _interval_text(interval: Interval, spec: str) -> str:
    """Format an interval; its mean alone if the spread is unknown."""
    return format(interval.mean, spec) if math.isnan(interval.half) else format(interval, spec)


def _numbers(interval: Interval | None) -> tuple[float | None, float | None]:
    """Return mean and half width; None, an empty cell in CSV, if unknown."""
    if interval is None:
        return None, None
    return interval.mean, None if math.isnan(interval.half) else interval.half


def _aligned(cells: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; the first row is the header, numbers are right-aligned."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    rows = [
        [row[0].ljust(widths[0]), *(map(str.rjust, row[1:], widths[1:]))]
        for row in (cells[0], rule, *cells[1:])
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)

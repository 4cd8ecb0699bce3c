"""Plot of a comparison: each method's score, and paired differences to the first method."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from ibisa_onnx.benchmark.extra import import_extra
from ibisa_onnx.benchmark.table import Line, Table
from ibisa_onnx.metrics import Interval

_WIDTH, _FRAME, _ROW = 7.2, 1.2, 0.45  # inches
_DPI = 150
_FIRST, _OTHER = "tab:red", "dimgray"


def draw(table: Table, title: str = "") -> bytes:
    """Plot the table's last metric for each method, and paired differences to the first method.

    Parameters
    ----------
    table
        The comparison.
    title
        Title of the figure; none if empty.

    Returns
    -------
    bytes
        A PNG file. Error bars are 95% confidence intervals.

    Raises
    ------
    MissingDependencyError
        matplotlib is not installed.
    """
    size = (_WIDTH, _FRAME + _ROW * len(table.lines))
    figure = import_extra("matplotlib.figure").Figure(figsize=size, layout="constrained")
    scores, leads = figure.subplots(1, 2, sharey=True)
    metric, first = table.metrics[-1], table.lines[0].method
    direction = "higher" if metric.higher_is_better else "lower"
    _rows(scores, [line.scores[metric.name] for line in table.lines])
    scores.set_xlabel(f"{metric.name} ({direction} is better)")
    scores.set_yticks(range(len(table.lines)), [_label(line) for line in table.lines])
    scores.set_ylim(len(table.lines) - 0.5, -0.5)  # the first one on top
    _rows(leads, [line.lead for line in table.lines])
    leads.axvline(0, color="black", linewidth=1)
    leads.set_xlabel(f"paired difference ({first} better: > 0)")
    figure.suptitle(title)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
    return buffer.getvalue()


def _rows(axes: Any, intervals: Sequence[Interval | None]) -> None:
    """Draw one interval per row."""
    for row, each in enumerate(intervals):
        if each is not None:
            colour = _OTHER if row else _FIRST
            axes.errorbar([each.mean], [row], xerr=[each.half], fmt="o", capsize=3, color=colour)
    axes.grid(axis="x", alpha=0.3)


def _label(line: Line) -> str:
    return f"{line.method}\n{line.forward:.0f} + {line.backward:.0f} passes"

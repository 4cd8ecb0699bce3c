"""A comparison as a picture: quality against passes."""

from __future__ import annotations

import io

from ibisa_onnx.comparison.extra import import_extra
from ibisa_onnx.comparison.table import Table

_SIZE = (6.4, 4.0)  # inches
_DPI = 150


def draw(table: Table, title: str = "") -> bytes:
    """Draw the last metric of each method over its passes, with intervals, as a PNG file.

    Raises
    ------
    MissingDependencyError
        matplotlib is not installed.
    """
    figure = import_extra("matplotlib.figure").Figure(figsize=_SIZE, layout="constrained")
    axes, metric = figure.subplots(), table.metrics[-1]
    for number, line in enumerate(table.lines):
        score, passes = line.scores[metric.name], line.forward + line.backward
        colour = "tab:red" if number == 0 else "tab:gray"
        axes.errorbar([passes], [score.mean], [score.half], fmt="o", capsize=3, color=colour)
        place = {"xytext": (6, 4), "textcoords": "offset points", "color": colour}
        axes.annotate(line.method, (passes, score.mean), **place)
    axes.set(xscale="log", xlabel="forward + backward passes for a map", title=title)
    axes.set_ylabel(f"{metric.name} ({'higher' if metric.higher_is_better else 'lower'} is better)")
    axes.margins(x=0.15)
    axes.grid(alpha=0.3)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
    return buffer.getvalue()

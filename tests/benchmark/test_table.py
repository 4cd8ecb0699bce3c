"""The table's figures, by hand."""

from __future__ import annotations

import csv
import io
import math
import sys

import cv2
import numpy as np
import pytest

from ibisa_onnx.benchmark.plot import draw
from ibisa_onnx.benchmark.row import ScoreRow
from ibisa_onnx.benchmark.table import Table
from ibisa_onnx.errors import MetricError, MissingDependencyError
from ibisa_onnx.metrics import DELETION, INSERTION

STUDENT_OF_3 = 4.302653  # the 97.5% quantile of t with 2 degrees of freedom


def row(image: int, method: str, insertion: float, deletion: float, **cost: float) -> ScoreRow:
    usual = {"forward": 20, "backward": 10, "seconds": 1.0, "peak_bytes": 2**20 * 100}
    return ScoreRow(
        image=f"{image}.png",
        image_sha256=str(image) * 64,
        method=method,
        settings="abc",
        target="class 0",
        scores={"insertion": insertion, "deletion": deletion},
        **{**usual, **cost},
    )


ROWS = [
    row(1, "ibisa", 0.6, 0.1),
    row(2, "ibisa", 0.7, 0.3),
    row(3, "ibisa", 0.8, 0.2, seconds=4.0, peak_bytes=2**20 * 150),
    row(1, "rise", 0.5, 0.2, forward=4000, backward=0),
    row(2, "rise", 0.7, 0.5, forward=4000, backward=0),
    row(3, "rise", 0.3, 0.5, forward=4003, backward=0),
]


@pytest.fixture
def table():
    return Table(ROWS, ["ibisa", "rise"], [INSERTION, DELETION])


def parsed(table: Table) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(table.csv())))


def test_means_intervals_and_costs(table):
    ours, theirs = table.lines
    assert table.pictures == 3
    assert ours.scores["insertion"].mean == pytest.approx(0.7)
    assert ours.scores["insertion"].half == pytest.approx(STUDENT_OF_3 * 0.1 / math.sqrt(3))
    assert theirs.scores["deletion"].mean == pytest.approx(0.4)
    assert (ours.forward, ours.backward, ours.seconds, ours.mebibytes) == (20, 10, 2.0, 150)
    assert (theirs.forward, theirs.backward, theirs.mebibytes) == (4001, 0, 100)


def test_the_lead_is_paired_and_above_zero_where_the_first_is_better(table):
    ours, theirs = table.lines
    assert ours.lead is None
    assert theirs.lead.mean == pytest.approx((0.1 + 0.2 + 0.3) / 3)  # deletion: lower is better
    assert theirs.lead.half == pytest.approx(STUDENT_OF_3 * 0.1 / math.sqrt(3))
    other = Table(ROWS, ["ibisa", "rise"], [DELETION, INSERTION]).lines[1]
    assert other.lead.mean == pytest.approx((0.1 + 0.0 + 0.5) / 3)


def test_the_order_of_rows_does_not_matter(table):
    assert Table(ROWS[::-1], ["ibisa", "rise"], [INSERTION, DELETION]).csv() == table.csv()


def test_pictures_that_a_method_lacks_do_not_count():
    table = Table(ROWS[:5], ["ibisa", "rise"], [INSERTION])
    assert table.pictures == 2
    assert table.lines[0].scores["insertion"].mean == pytest.approx(0.65)
    with pytest.raises(MetricError, match="no image"):
        Table(ROWS[:3], ["ibisa", "rise"], [INSERTION])


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_markdown_is_a_table_with_columns_of_one_width(table):
    head, rule, ours, theirs = table.markdown().splitlines()
    assert len({len(line) for line in (head, rule, ours, theirs)}) == 1
    assert cells(head) == [
        "method",
        "insertion ↑",
        "deletion ↓",
        "paired difference (> 0: ibisa better)",
        "passes",
        "seconds",
        "MiB",
    ]
    assert set(rule) <= set("|-: ")
    assert cells(theirs) == [
        "rise",
        "0.500 ± 0.497",
        "0.400 ± 0.430",
        "+0.200 ± 0.248",
        "4001 + 0",
        "1.00",
        "100",
    ]
    assert cells(ours)[3] == ""


def test_csv_has_every_figure_in_a_column_of_its_own(table):
    ours, theirs = parsed(table)
    assert (ours["method"], ours["pictures"], ours["lead"], ours["lead ±"]) == (
        "ibisa",
        "3",
        "",
        "",
    )
    assert float(theirs["lead"]) == pytest.approx(0.2)
    assert float(theirs["deletion ±"]) == pytest.approx(STUDENT_OF_3 * 0.1)
    assert [float(theirs[name]) for name in ("forward", "backward", "seconds", "peak MiB")] == [
        4001,
        0,
        1,
        100,
    ]


def test_one_picture_has_no_intervals():
    table = Table([ROWS[0], ROWS[3]], ["ibisa", "rise"], [INSERTION, DELETION])
    assert "nan" not in table.markdown() + table.csv()
    assert "±" not in table.markdown()
    theirs = cells(table.markdown().splitlines()[-1])
    assert theirs == ["rise", "0.500", "0.200", "+0.100", "4000 + 0", "1.00", "100"]
    assert parsed(table)[1]["insertion ±"] == ""
    assert cv2.imdecode(np.frombuffer(draw(table), np.uint8), cv2.IMREAD_COLOR) is not None


def test_the_plot_has_a_row_for_each_method_and_marks_the_first(table):
    heights = []
    for methods in (["ibisa"], ["ibisa", "rise"]):
        data = draw(Table(ROWS, methods, [INSERTION, DELETION]), "model")
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR).astype(int)
        heights.append(len(pixels))
        blue, _, red = pixels.transpose(2, 0, 1)
        assert (red - blue > 100).any()
    assert heights[0] < heights[1]


def test_without_matplotlib_the_extra_is_named(table, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingDependencyError, match=r"matplotlib.*ibisa-onnx\[bench\]"):
        draw(table)

"""Scores on disk: read back as they were, whatever befell the file's end; no other file touched."""

from __future__ import annotations

import csv
from dataclasses import replace

import pytest

from ibisa_onnx.benchmark.row import ScoreRow
from ibisa_onnx.benchmark.store import Store
from ibisa_onnx.errors import ResultError

METRICS = ("insertion", "insertion - deletion")
ROW = ScoreRow(
    image='odd, "name".png',
    image_sha256="1" * 64,
    method="rise",
    settings="abc",
    target="class 3",
    forward=4003,
    backward=0,
    seconds=1.25,
    peak_bytes=2**33,
    scores={"insertion": 1 / 3, "insertion - deletion": -1e-17},
)
OTHER = replace(ROW, image="b.png", image_sha256="2" * 64)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "out" / "scores.csv"


@pytest.fixture
def written(path):
    store = Store(path, METRICS)
    store.add(ROW)
    store.add(OTHER)
    return path


def test_nothing_is_written_before_the_first_row(path):
    assert Store(path, METRICS).rows == {}
    assert not path.parent.exists()


def test_rows_come_back_exactly(written):
    assert Store(written, METRICS).rows == {ROW.key: ROW, OTHER.key: OTHER}


def test_the_file_is_a_table_with_a_head(written):
    with written.open(newline="", encoding="utf-8") as file:
        first, second = csv.DictReader(file)
    assert first["image"] == ROW.image
    assert float(second["insertion - deletion"]) == -1e-17


@pytest.mark.parametrize("lost", [1, 5, 40])
def test_a_line_that_was_cut_off_is_measured_again(written, lost):
    whole = written.read_bytes()
    written.write_bytes(whole[:-lost])
    store = Store(written, METRICS)
    assert store.rows == {ROW.key: ROW}
    store.add(OTHER)
    assert written.read_bytes() == whole


def test_a_head_that_was_cut_off_is_written_again(written):
    whole = written.read_bytes()
    written.write_bytes(whole[:9])
    store = Store(written, METRICS)
    store.add(ROW), store.add(OTHER)
    assert written.read_bytes() == whole


@pytest.mark.parametrize("data", [b"a,b\n1,2\n", b"my notes", b"\xff\xfe\x00", b"a\nb\x00\n"])
def test_a_file_of_something_else_is_refused_and_stays(path, data):
    path.parent.mkdir()
    path.write_bytes(data)
    with pytest.raises(ResultError, match="choose another -o"):
        Store(path, METRICS)
    assert path.read_bytes() == data


def test_the_file_grows_by_other_metrics_and_loses_nothing(written):
    store = Store(written, ["deletion"])
    assert store.rows == {ROW.key: ROW, OTHER.key: OTHER}
    store.add(replace(ROW, scores={"deletion": 0.25}, seconds=9.0))
    grown = replace(ROW, scores={**ROW.scores, "deletion": 0.25})  # and what it cost stays
    for metrics in (["insertion"], ["deletion", "degradation"]):
        assert Store(written, metrics).rows == {ROW.key: grown, OTHER.key: OTHER}
    with written.open(newline="", encoding="utf-8") as file:
        head, first, second = csv.reader(file)
    assert head[-3:] == [*METRICS, "deletion"]
    assert (first[-1], second[-1]) == ("0.25", "")


def test_a_row_of_fewer_metrics_has_empty_cells(path):
    Store(path, METRICS).add(replace(ROW, scores={"insertion": 0.5}))
    (row,) = Store(path, METRICS).rows.values()
    assert row.scores == {"insertion": 0.5}


def test_a_damaged_line_is_named(written):
    written.write_text(written.read_text().replace("4003", "many", 1))
    with pytest.raises(ResultError, match=r'odd, "name".png.*many'):
        Store(written, METRICS)


def test_empty_lines_and_those_of_other_systems_are_read(written):
    written.write_bytes(written.read_bytes().replace(b"\n", b"\r\n") + b"\r\n")
    assert set(Store(written, METRICS).rows) == {ROW.key, OTHER.key}


def test_a_name_that_is_no_text_is_kept_in_escapes(path):
    Store(path, METRICS).add(replace(ROW, image="a\udcff.png"))
    (row,) = Store(path, METRICS).rows.values()
    assert row.image == "a\\udcff.png"


def test_a_place_that_cannot_be_written_to_is_named(path):
    path.parent.write_text("a file")
    with pytest.raises(ResultError, match="cannot write"):
        Store(path, METRICS).add(ROW)

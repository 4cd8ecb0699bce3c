"""Every picture gets names of its own for its results, whatever it is called."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from ibisa_onnx.commands.outputs import Destinations, distinct_stems
from ibisa_onnx.commands.stdin import piped, piped_model, piped_picture
from ibisa_onnx.errors import ImageError, MetricError

ODD = ["..png", "...", ".png", "a.b..png", ".a", "-x.png", os.fsdecode(b"\xff\xfe.png"), "a\nb.png"]
LONG = ["a" * 251 + ".png", "é" * 125 + ".png", os.fsdecode(b"\xff" * 200 + b"\x80" * 51 + b".jpg")]


@pytest.mark.parametrize("name", [*ODD, *LONG])
@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("output", [None, "out/"])
def test_results_lie_in_the_folder_that_is_meant(tmp_path, monkeypatch, name, several, output):
    """Of `..png` a stem is a dot, which is a folder; and file systems end names at 255 bytes."""
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    where = Destinations([f"in/{name}"], output, several_targets=several, with_data=True)
    label = "a label that is longer than what is kept of any label in names of files"
    names = where.of(f"in/{name}", 7, label, ("effect", "uncertainty"))
    assert len(names) == 5
    for path in names:
        assert path.parent == Path("in" if output is None else "out")
        assert path.name not in (name, ".", "..")
        path.parent.mkdir(exist_ok=True)
        path.touch()
        assert path.is_file()


def test_short_names_are_kept_and_long_ones_told_apart():
    assert [path.name for path in distinct_stems(["a.png", "a.jpg"]).values()] == ["a", "a.jpg"]
    long = [f"{'é' * 123}{number}.png" for number in range(12)]
    stems = distinct_stems(long)
    assert len(set(stems.values())) == 12


class TestStdin:
    @pytest.fixture(autouse=True)
    def ten_bytes(self, monkeypatch):
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"0123456789")))

    def test_what_fits_is_read_whole(self, monkeypatch):
        monkeypatch.setenv("IBISA_ONNX_MAX_FILE_BYTES", "10")
        assert piped_picture() == b"0123456789"

    def test_more_than_a_file_may_have_is_refused_and_not_read(self, monkeypatch):
        monkeypatch.setenv("IBISA_ONNX_MAX_FILE_BYTES", "5")
        with pytest.raises(
            MetricError, match="the map on stdin exceeds 5 bytes; raise the limit with IBISA"
        ):
            piped("the map", MetricError)
        assert sys.stdin.buffer.read() == b"6789"

    def test_a_picture_is_told_as_one(self, monkeypatch):
        monkeypatch.setenv("IBISA_ONNX_MAX_FILE_BYTES", "5")
        with pytest.raises(ImageError, match="the image on stdin"):
            piped_picture()

    def test_a_model_may_have_any_size(self, monkeypatch):
        monkeypatch.setenv("IBISA_ONNX_MAX_FILE_BYTES", "5")
        assert piped_model() == b"0123456789"

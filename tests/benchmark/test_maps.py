"""Maps from files: read when they are maps, and named so that none takes another's place."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest

from ibisa_onnx.benchmark.maps import MapFolder, read_map
from ibisa_onnx.errors import MetricError


def encoded(values, **options) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float64, bool, np.int64])
def test_a_map_is_read_from_a_file_and_from_its_bytes(tmp_path, dtype):
    values = np.array([[0, 1, 1], [1, 0, 0]], dtype)
    np.save(tmp_path / "map.npy", values)
    for source in (tmp_path / "map.npy", encoded(values)):
        np.testing.assert_array_equal(read_map(source), values.astype(np.float64))


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "not a .npy file"),
        (b"\x89PNG\r\n\x1a\n and so on", "not a .npy file"),
        (b"\x93NUMPY\x01\x00v\x00{broken", "not a .npy file"),
        (encoded(np.zeros((4, 4)))[:-3], "not a .npy file"),
        (encoded(np.array([{}], object), allow_pickle=True), "not a .npy file"),
        (encoded(np.zeros((1, 4, 4))), r"\(1, 4, 4\)"),
        (encoded(np.zeros((4, 4), complex)), "c16"),
        (encoded(np.array([["a"]])), "<U1"),
        (encoded(np.full((2, 2), np.nan)), "NaN"),
        (encoded(np.full((2, 2), np.inf)), "infinite"),
        (encoded(np.zeros((0, 4))), r"\(0, 4\)"),
    ],
)
def test_what_is_no_map_is_refused_by_name_in_one_line(tmp_path, data, match):
    path = tmp_path / "given.npy"
    path.write_bytes(data)
    with pytest.raises(MetricError, match=match) as error:
        read_map(path)
    assert str(error.value).startswith((f"{path}: ", f"{path} is "))
    assert "\n" not in str(error.value)


def test_several_arrays_are_no_map(tmp_path):
    np.savez(tmp_path / "maps.npz", a=np.zeros((2, 2)))
    with pytest.raises(MetricError, match="several arrays"):
        read_map(tmp_path / "maps.npz")


@pytest.mark.parametrize(
    ("name", "match"), [("nosuch.npy", "map file .* does not exist"), (".", "a folder")]
)
def test_what_cannot_be_read_is_refused_with_the_reason(tmp_path, name, match):
    with pytest.raises(MetricError, match=match):
        read_map(tmp_path / name)


def test_maps_of_one_name_are_told_apart_by_picture_method_and_settings(tmp_path):
    folder = MapFolder(tmp_path)
    one = (Path("x/a.png"), "1" * 64, "rise", "abc")
    others = [
        (Path("y/a.png"), "2" * 64, "rise", "abc"),
        (Path("x/a.png"), "1" * 64, "iba", "abc"),
        (Path("x/a.png"), "1" * 64, "rise", "def"),
        (Path("x/b.png"), "1" * 64, "rise", "abc"),
    ]
    assert len({folder.path(*each) for each in (one, *others)}) == 5
    assert folder.path(*one).name.startswith("a")


def test_a_map_is_written_as_it_is(tmp_path):
    values = np.random.default_rng(0).random((3, 5)).astype(np.float32)
    path = tmp_path / "deep" / "a.npy"
    MapFolder(tmp_path).write(path, values)
    np.testing.assert_array_equal(np.load(path), values)

"""Arrays of strangers: plain numbers come back as they were, and nothing else is opened."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ibisa_onnx.errors import TargetError
from ibisa_onnx.io.arrays import load_npy, read_npy
from ibisa_onnx.limits import Limits


def encoded(values: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values, **options)
    return buffer.getvalue()


def headed(header: str, content: bytes = b"", version: int = 1) -> bytes:
    text = header.encode("latin-1")
    length = len(text).to_bytes(2 if version == 1 else 4, "little")
    return b"\x93NUMPY" + bytes([version, 0]) + length + text + content


def shaped(shape: object, descr: str = "'<f4'") -> str:
    return f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}"


class Payload:
    """Would set a variable of the environment where a pickle of it is opened."""

    def __reduce__(self) -> Any:
        return exec, ("import os; os.environ['IBISA_PAYLOAD_RAN'] = '1'",)


@pytest.mark.parametrize(
    "values",
    [
        np.arange(6.0).reshape(2, 3),
        np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
        np.arange(5, dtype=">i2"),
        np.array([[True, False]]),
        np.float16(3.5),
        np.zeros((0, 4), np.uint8),
        np.array([np.nan, np.inf]),
    ],
)
def test_numbers_come_back_as_they_were_and_may_be_changed(values, tmp_path):
    np.save(tmp_path / "a.npy", values)
    for found in (
        read_npy(encoded(values), "it", TargetError),
        load_npy(tmp_path / "a.npy", "map", TargetError),
    ):
        np.testing.assert_array_equal(found, values)
        assert found.dtype == np.asarray(values).dtype
        assert found.flags.writeable
        assert found.flags.f_contiguous == np.asarray(values).flags.f_contiguous


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "empty"),
        (b"no array at all", "no .npy signature"),
        (encoded(np.array([Payload()]), allow_pickle=True), r"\|O"),
        (pickle.dumps(Payload()), "no .npy signature"),
        (encoded(np.array(["text"])), "<U4"),
        (encoded(np.zeros(3, complex)), "<c16"),
        (encoded(np.zeros(3, "f4,i4")), "f0"),
        (encoded(np.zeros(3, "M8[s]")), "M8"),
        (encoded(np.arange(9.0))[:-1], "9 numbers of float64, but only 71 bytes follow"),
        (headed(shaped((10**11,))), "100,000,000,000 numbers"),
        (headed(shaped((10**9, 10**9, 10**9))), "numbers of float32"),
        (headed(shaped((-1,)), b"aaaa"), r"shape \(-1,\)"),
        (headed(shaped((True,)), b"aaaa"), "shape"),
        (headed(shaped(1), b"aaaa"), "shape"),
        (headed(shaped((1,) * 40), b"aaaa"), "shape"),
        (headed(shaped((1,), "'<f3'"), b"aaaa"), "<f3"),
        (headed(shaped((1,), "'<f16'"), b"a" * 16), "<f16"),
        (headed(shaped((1,), "('<f4', (10**9,))"), b"aaaa"), "header is damaged"),
        (headed("(" * 5000), "header is damaged"),
        (headed("-" * 5000 + "1"), "header is damaged"),
        (headed("{[]: 1}  "), "header is damaged"),
        (headed("__import__('os')"), "header is damaged"),
        (headed(" " * 20_000 + shaped((1,)), b"aaaa"), "20,055 bytes is truncated or too long"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff", "truncated"),
        (b"\x93NUMPY\x09\x00\xff\xff\xff\xff", "version is 9"),
    ],
)
def test_what_is_no_array_of_numbers_is_refused_in_one_line(data, match):
    with pytest.raises(TargetError, match=match) as caught:
        read_npy(data, "given.npy", TargetError)
    assert str(caught.value).startswith("given.npy ")
    assert "IBISA_PAYLOAD_RAN" not in os.environ


def test_an_archive_is_refused_by_what_it_is(tmp_path):
    np.savez(tmp_path / "a.npz", a=np.zeros(3))
    with pytest.raises(TargetError, match=r"archive of several arrays \(.npz\)"):
        load_npy(tmp_path / "a.npz", "map", TargetError)


def test_more_bytes_than_the_limit_are_not_read(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros(1000))
    for read in (
        lambda limits: load_npy(tmp_path / "a.npy", "map", TargetError, limits),
        lambda limits: read_npy(encoded(np.zeros(1000)), "map", TargetError, limits),
    ):
        assert read(Limits(file_bytes=10_000)).shape == (1000,)
        with pytest.raises(TargetError, match=r"8,128 bytes.*IBISA_ONNX_MAX_FILE_BYTES"):
            read(Limits(file_bytes=8_000))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with names")
def test_a_pipe_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "a.npy")
    with pytest.raises(TargetError, match="is a pipe"):
        load_npy(tmp_path / "a.npy", "map", TargetError)


@given(st.data())
def test_bytes_that_were_changed_give_numbers_or_one_error(data):
    whole = bytearray(encoded(np.arange(4.0).reshape(2, 2)))
    for place in data.draw(st.lists(st.integers(0, len(whole) - 1), max_size=4)):
        whole[place] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(whole)))
    with contextlib.suppress(TargetError):
        assert read_npy(bytes(whole[:cut]), "it", TargetError).dtype.kind in "biuf"

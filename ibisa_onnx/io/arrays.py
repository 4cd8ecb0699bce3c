"""Reads untrusted .npy files: plain numbers, without executing anything.

NumPy's own loader also opens archives and pickles, allocates what a header claims before it reads
the data, and fails in many ways. The meaning of the numbers is checked by the caller.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from ibisa_onnx.errors import IbisaError
from ibisa_onnx.io.files import Named, name_of, read_file
from ibisa_onnx.io.literals import parse_literal
from ibisa_onnx.limits import Limits, variable

_MAGIC = b"\x93NUMPY"
_LENGTHS: Mapping[int, str] = MappingProxyType({1: "<H", 2: "<I", 3: "<I"})
"""Format of the header's length, by the file's version."""
_LONGEST_HEADER = 10_000  # bytes, NumPy's limit; headers of numbers have 128
_MOST_AXES = 32
_LONGEST_AXIS = 2**40
_NUMBERS = re.compile(r"[<>|=]?[biuf][1248]")
_GIVE = "pass a single array, as numpy.save writes it"


def read_npy(
    data: bytes, what: str, error: type[IbisaError], limits: Limits | None = None
) -> npt.NDArray[Any]:
    """Read the content of a .npy file.

    Parameters
    ----------
    data
        The file's bytes.
    what
        Name of the file in error messages.
    error
        The class of the error.
    limits
        Limit on bytes; None: from the environment.

    Returns
    -------
    ndarray
        Of any shape; booleans, integers or floats, possibly NaN. Writable.

    Raises
    ------
    IbisaError
        Of class `error`: the file is not a .npy file, is truncated, contains anything else, or
        exceeds the limit.
    """
    most = Limits.of(limits).file_bytes
    if len(data) > most:
        raise error(
            f"{what} has {len(data):,} bytes, more than the limit of {most:,} for an array; set "
            f"{variable('file_bytes')} to allow more"
        )
    try:
        dtype, shape, order, start = _header(data)
        count = math.prod(shape)
        if count * dtype.itemsize > len(data) - start:
            raise ValueError(
                f"its header declares {count:,} numbers of {dtype.name}, but only "
                f"{len(data) - start:,} bytes follow"
            )
        values = np.frombuffer(data, dtype, count, start) if count else np.empty(0, dtype)
        return values.reshape(shape, order=order).copy(order="K")
    except (ValueError, TypeError, OverflowError, MemoryError) as failure:
        why = str(failure) or "it does not fit into memory"
        raise error(f"{what} is not a .npy file of real numbers: {why}; {_GIVE}") from failure


def load_npy(
    path: Named, what: str, error: type[IbisaError], limits: Limits | None = None
) -> npt.NDArray[Any]:
    """Read a .npy file, as `read_file` and `read_npy` do; `what` is its content: "map"."""
    return read_npy(read_file(path, what, error, limits), name_of(path), error, limits)


def _header(data: bytes) -> tuple[np.dtype[Any], tuple[int, ...], Any, int]:
    """Return dtype, shape, axis order, and the position of the numbers."""
    if data[:4] == b"PK\x03\x04":
        raise ValueError("it is an archive of several arrays (.npz)")
    if data[:6] != _MAGIC or len(data) < 12:
        raise ValueError("it has no .npy signature" if data else "it is empty")
    if data[6] not in _LENGTHS:
        raise ValueError(f"its version is {data[6]}, expected 1 to 3")
    (length,) = struct.unpack_from(_LENGTHS[data[6]], data, 8)
    start = 8 + struct.calcsize(_LENGTHS[data[6]]) + length
    if length > _LONGEST_HEADER or start > len(data):
        raise ValueError(f"its header of {length:,} bytes is truncated or too long")
    said = parse_literal(data[start - length : start].decode("latin-1"))
    if not isinstance(said, dict) or said.keys() != {"descr", "fortran_order", "shape"}:
        raise ValueError("its header is damaged")
    order = "F" if said["fortran_order"] is True else "C"
    return _dtype(said["descr"]), _shape(said["shape"]), order, start


def _dtype(said: Any) -> np.dtype[Any]:
    if not isinstance(said, str) or not _NUMBERS.fullmatch(said):
        raise ValueError(f"it contains {said!r:.80}")
    return np.dtype(said)


def _shape(said: Any) -> tuple[int, ...]:
    sides = said if isinstance(said, tuple) and len(said) <= _MOST_AXES else (None,)
    if not all(type(side) is int and 0 <= side <= _LONGEST_AXIS for side in sides):
        raise ValueError(f"its header declares shape {said!r:.80}")
    return sides

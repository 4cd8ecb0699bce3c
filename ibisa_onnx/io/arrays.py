"""Arrays from .npy files that anyone may have made: plain numbers, and nothing that runs.

NumPy's own loader also opens archives and pickles, allocates what a header claims before it looks
at the bytes, and fails in many ways. What the numbers mean is checked by whoever reads them.
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
"""How the length of the header is written, by the format's version."""
_LONGEST_HEADER = 10_000  # bytes, as NumPy has it; one of numbers takes 128
_MOST_AXES = 32
_LONGEST_AXIS = 2**40
_NUMBERS = re.compile(r"[<>|=]?[biuf][1248]")
_GIVE = "give one array, as numpy.save writes it"


def read_npy(
    data: bytes, what: str, error: type[IbisaError], limits: Limits | None = None
) -> npt.NDArray[Any]:
    """Read the content of a .npy file.

    Parameters
    ----------
    data
        The file's bytes.
    what
        What to call it in an error: its name.
    error
        The class of the error.
    limits
        How many bytes it may have; None: as the environment says.

    Returns
    -------
    ndarray
        Of any shape; booleans, integers or floating-point numbers, which may be NaN. It may be
        written to.

    Raises
    ------
    IbisaError
        Of the class `error`: it is no such file, is cut off, holds anything else, or has more bytes
        than the limit.
    """
    most = (limits or Limits.from_environment()).file_bytes
    if len(data) > most:
        raise error(
            f"{what}: {len(data):,} bytes are more than the {most:,} that an array may have; set "
            f"{variable('file_bytes')} to allow more"
        )
    try:
        dtype, shape, order, start = _header(data)
        count = math.prod(shape)
        if count * dtype.itemsize > len(data) - start:
            raise ValueError(
                f"its header says {count:,} numbers of {dtype.name}, and {len(data) - start:,} "
                "bytes follow"
            )
        values = np.frombuffer(data, dtype, count, start) if count else np.empty(0, dtype)
        return values.reshape(shape, order=order).copy(order="K")
    except (ValueError, TypeError, OverflowError, MemoryError) as failure:
        why = str(failure) or "it does not fit into memory"
        raise error(f"{what}: this is no .npy file of real numbers: {why}; {_GIVE}") from failure


def load_npy(
    path: Named, what: str, error: type[IbisaError], limits: Limits | None = None
) -> npt.NDArray[Any]:
    """Read a .npy file, as `read_file` and `read_npy` do; `what` says what it holds: "map"."""
    return read_npy(read_file(path, what, error, limits), name_of(path), error, limits)


def _header(data: bytes) -> tuple[np.dtype[Any], tuple[int, ...], Any, int]:
    """Return dtype, shape, order of the axes, and where the numbers start."""
    if data[:4] == b"PK\x03\x04":
        raise ValueError("it is an archive of several arrays (.npz)")
    if data[:6] != _MAGIC or len(data) < 12:
        raise ValueError("it does not begin as one" if data else "it is empty")
    if data[6] not in _LENGTHS:
        raise ValueError(f"its version is {data[6]}, expected 1 to 3")
    (length,) = struct.unpack_from(_LENGTHS[data[6]], data, 8)
    start = 8 + struct.calcsize(_LENGTHS[data[6]]) + length
    if length > _LONGEST_HEADER or start > len(data):
        raise ValueError(f"its header of {length:,} bytes is cut off or too long")
    said = parse_literal(data[start - length : start].decode("latin-1"))
    if not isinstance(said, dict) or said.keys() != {"descr", "fortran_order", "shape"}:
        raise ValueError("its header is damaged")
    order = "F" if said["fortran_order"] is True else "C"
    return _dtype(said["descr"]), _shape(said["shape"]), order, start


def _dtype(said: Any) -> np.dtype[Any]:
    if not isinstance(said, str) or not _NUMBERS.fullmatch(said):
        raise ValueError(f"it holds {said!r:.80}")
    return np.dtype(said)


def _shape(said: Any) -> tuple[int, ...]:
    sides = said if isinstance(said, tuple) and len(said) <= _MOST_AXES else (None,)
    if not all(type(side) is int and 0 <= side <= _LONGEST_AXIS for side in sides):
        raise ValueError(f"its header says shape {said!r:.80}")
    return sides

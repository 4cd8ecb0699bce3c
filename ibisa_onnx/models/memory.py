"""How many bytes a call of a model takes, by estimate, before anything is allocated.

A model's file, its metadata or a flag may ask for inputs and outputs of any size. Counted is what a
call takes and returns with the copies that are made of it here; what ONNX Runtime allocates between
the two only it knows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ibisa_onnx.errors import ModelError
from ibisa_onnx.limits import Limits, variable
from ibisa_onnx.models.signature import ImageInput, Signature, TensorInfo

_OF_INPUTS = 8  # bytes of a value beside its own: the picture and its masked version, float32
_OF_OUTPUTS = 16  # the same of an output: two in float64
_OF_SCORES = 128  # the same of a row of scores, read several times in calls side by side: measured
_UNKNOWN = 4  # bytes of a value of a type that NumPy does not have


def check_call(
    signature: Signature,
    label: str,
    limits: Limits | None = None,
    size: tuple[int, int] | None = None,
) -> None:
    """See that one call of a model does not take more memory than is allowed.

    Parameters
    ----------
    signature
        Its inputs and outputs. A side that is open counts as 1.
    label
        What to call the model in an error.
    limits
        `memory` is what counts; None: as the environment says.
    size
        Height and width of the input; None: the model's own.

    Raises
    ------
    ModelError
        It takes more, by estimate.
    """
    image = signature.image
    shape = _image_shape(image, size)
    values = math.prod(shape)
    needed = values * (_width(image.dtype) + _OF_INPUTS)
    needed += sum(
        math.prod(_sides(each)) * (_width(each.dtype) + _beside(len(each.shape)))
        for each in signature.outputs
    )
    most = (limits or Limits.from_environment()).memory
    if needed > most:
        given = ", ".join(map(str, signature.outputs))
        raise ModelError(
            f"{label}: one call takes about {needed:,} bytes, more than the {most:,} that are "
            f"allowed: the input is {' x '.join(map(str, shape))}, the outputs {given}",
            f"set {variable('memory')} to allow more, or give a smaller size=",
        )


def check_answer(
    values: Mapping[str, npt.NDArray[Any]], label: str, limits: Limits | None = None
) -> None:
    """See that what a call returned does not take more memory than is allowed, with its copies.

    Raises
    ------
    ModelError
        It takes more, by estimate.
    """
    arrays = [each for each in values.values() if isinstance(each, np.ndarray)]
    needed = sum(each.nbytes + each.size * _beside(each.ndim) for each in arrays)
    if needed < 1 << 20:  # of most models; then no limit needs to be read
        return
    most = (limits or Limits.from_environment()).memory
    if needed > most:
        shapes = ", ".join(f"{name} {list(np.shape(each))}" for name, each in values.items())
        raise ModelError(
            f"{label}: its outputs take about {needed:,} bytes, more than the {most:,} that are "
            f"allowed: {shapes}",
            f"set {variable('memory')} to allow more",
        )


def _image_shape(image: ImageInput, size: tuple[int, int] | None) -> tuple[int, ...]:
    height, width = size or (image.height or 1, image.width or 1)
    return (image.batch or 1, image.channels, height, width)


def _beside(rank: int) -> int:
    """Bytes that an output's value takes beside its own."""
    return _OF_SCORES if rank <= 2 else _OF_OUTPUTS


def _sides(tensor: TensorInfo) -> Iterable[int]:
    return (side for side in tensor.shape if isinstance(side, int) and side > 0)


def _width(dtype: str) -> int:
    try:
        return np.dtype(dtype).itemsize
    except (TypeError, ValueError, SyntaxError):  # "seq(map(string,tensor(float)))" is no dtype
        return _UNKNOWN

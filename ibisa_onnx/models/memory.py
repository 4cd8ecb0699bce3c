"""Estimates the memory of a model call before anything is allocated.

A model's file, its metadata or a flag may ask for inputs and outputs of any size. The estimate
includes inputs, outputs and the copies made of them here, but not what ONNX Runtime allocates in
between.
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

_OF_INPUTS = 8  # additional bytes per input value: the image and its masked version, float32
_OF_OUTPUTS = 16  # the same per output value: two copies in float64
_OF_SCORES = 128  # the same per score, read several times in parallel calls: measured
_UNKNOWN = 4  # bytes per value of a type that NumPy does not have


def check_call(
    signature: Signature,
    label: str,
    limits: Limits | None = None,
    size: tuple[int, int] | None = None,
) -> None:
    """Check that one model call does not exceed the memory limit.

    Parameters
    ----------
    signature
        The model's inputs and outputs. A dynamic axis counts as 1.
    label
        Name of the model in error messages.
    limits
        `memory` applies; None: from the environment.
    size
        Height and width of the input; None: the model's own.

    Raises
    ------
    ModelError
        The estimate exceeds the limit.
    """
    image = signature.image
    shape = _image_shape(image, size)
    values = math.prod(shape)
    needed = values * (_width(image.dtype) + _OF_INPUTS)
    needed += sum(
        math.prod(_sides(each)) * (_width(each.dtype) + _beside(len(each.shape)))
        for each in signature.outputs
    )
    most = Limits.of(limits).memory
    if needed > most:
        given = ", ".join(map(str, signature.outputs))
        raise ModelError(
            f"{label}: one call requires about {needed:,} bytes, more than the limit of {most:,}: "
            f"the input is {' x '.join(map(str, shape))}, the outputs {given}",
            f"set {variable('memory')} to allow more, or pass overrides={{'size': ...}} with a "
            "smaller size",
        )


def check_answer(
    values: Mapping[str, npt.NDArray[Any]], label: str, limits: Limits | None = None
) -> None:
    """Check that a call's outputs, with their copies, do not exceed the memory limit.

    Raises
    ------
    ModelError
        The estimate exceeds the limit.
    """
    arrays = [each for each in values.values() if isinstance(each, np.ndarray)]
    needed = sum(each.nbytes + each.size * _beside(each.ndim) for each in arrays)
    if needed < 1 << 20:  # true of most models; then the limit need not be read
        return
    most = Limits.of(limits).memory
    if needed > most:
        shapes = ", ".join(f"{name} {list(np.shape(each))}" for name, each in values.items())
        raise ModelError(
            f"{label}: its outputs require about {needed:,} bytes, more than the limit of "
            f"{most:,}: {shapes}",
            f"set {variable('memory')} to allow more",
        )


def _image_shape(image: ImageInput, size: tuple[int, int] | None) -> tuple[int, ...]:
    height, width = size or (image.height or 1, image.width or 1)
    return (image.batch or 1, image.channels, height, width)


def _beside(rank: int) -> int:
    """Return the additional bytes per output value."""
    return _OF_SCORES if rank <= 2 else _OF_OUTPUTS


def _sides(tensor: TensorInfo) -> Iterable[int]:
    return (side for side in tensor.shape if isinstance(side, int) and side > 0)


def _width(dtype: str) -> int:
    try:
        return np.dtype(dtype).itemsize
    except (TypeError, ValueError, SyntaxError):  # "seq(map(string,tensor(float)))" is no dtype
        return _UNKNOWN

"""Values of a model's other inputs: all but the image."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ibisa_onnx.errors import ModelError
from ibisa_onnx.models.ort_messages import essence
from ibisa_onnx.models.signature import Signature, TensorInfo


def extra_feed(
    signature: Signature, values: Mapping[str, npt.NDArray[Any]], batch: int
) -> dict[str, npt.NDArray[Any]]:
    """Return the values of all inputs but the image, by name.

    Values whose leading axis is the image's are repeated for each of `batch` images.
    """
    feed = {}
    for tensor in signature.inputs:
        if tensor.name in values:
            value = values[tensor.name]
            shared = bool(tensor.shape) and tensor.shape[0] == signature.image.tensor.shape[0]
            repeat = shared and signature.image.batch is None and len(value) == 1
            feed[tensor.name] = np.repeat(value, batch, axis=0) if repeat else value
    return feed


def check_extra_inputs(
    signature: Signature, given: Mapping[str, npt.NDArray[Any]], label: str
) -> dict[str, npt.NDArray[Any]]:
    """Cast the values of all inputs but the image.

    Parameters
    ----------
    signature
        The inputs.
    given
        The values by name.
    label
        Name of the model in error messages.

    Raises
    ------
    ModelError
        A value is missing, does not fit its input, or belongs to no input.
    """
    others = {each.name: each for each in signature.inputs if each.name != signature.image.name}
    unknown = [name for name in given if name not in others]
    if unknown:
        there = f"it has: {', '.join(others)}" if others else "the image is its only input"
        raise ModelError(f"{label} has no additional input {unknown[0]!r}; {there}")
    missing = [tensor.quoted for name, tensor in others.items() if name not in given]
    if missing:
        raise ModelError(
            f"{label} also requires a value for {', '.join(missing)}; pass it with extra_inputs="
        )
    return {name: _extra_value(value, others[name], label) for name, value in given.items()}


def _extra_value(value: npt.ArrayLike, tensor: TensorInfo, label: str) -> npt.NDArray[Any]:
    """Cast a value to an input's dtype and rank; raise ModelError if it does not fit."""
    try:
        given = np.asarray(value)
        array = given.astype(object if tensor.dtype == "string" else tensor.dtype)
        fits = array.dtype.kind not in "biu" or np.array_equal(array, given)
    except (TypeError, ValueError, OverflowError):
        fits = False
    if not fits:
        raise ModelError(
            f"{label}: value {essence(repr(value), 60)} does not fit input {tensor.quoted}; "
            "pass another with extra_inputs="
        )
    shape = _fitting(array, tensor.shape)
    if shape is None:
        raise ModelError(
            f"{label}: a value of shape {list(array.shape)} does not fit input {tensor.quoted}; "
            "pass one of that shape with extra_inputs="
        )
    return array.reshape(shape)


def _fitting(
    array: npt.NDArray[Any], declared: tuple[int | str | None, ...]
) -> tuple[int, ...] | None:
    """Return the shape to which an array can be reshaped for an input, or None.

    Axes of 1 are prepended; a 1-D array may also fill the fixed sides.
    """
    if not declared:  # a scalar, or any shape
        return () if array.size == 1 else array.shape
    before = (1,) * (len(declared) - array.ndim)
    filled = tuple(side if isinstance(side, int) else 1 for side in declared)
    rows = [(*before, *array.shape)]
    if array.ndim <= 1 or array.size == 1:
        rows.append(filled)
    for shape in rows:
        pairs = zip(shape, declared, strict=False)
        same = all(side == given for given, side in pairs if isinstance(side, int))
        if len(shape) == len(declared) and same and math.prod(shape) == array.size:
            return shape
    return None

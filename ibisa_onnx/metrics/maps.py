"""Maps and regions as all metrics take them: checked, and ranked in one way.

Everything is computed in float64, so that a map in uint8 is ranked as the same map in floats.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ibisa_onnx.errors import MetricError

Saliency = npt.NDArray[Any]
"""A map [H, W] of any real type; the higher, the more important."""
Map = npt.NDArray[np.float64]
"""A map [H, W] that was checked."""
Region = npt.NDArray[np.bool_]
"""Pixels [H, W] that belong to an object."""


def checked_map(saliency: Saliency, shape: tuple[int, ...] | None = None) -> Map:
    """Return a map as float64 [H, W].

    Raises
    ------
    MetricError
        It is no finite real array of two dimensions, or not of the shape that is wanted.
    """
    array = np.asarray(saliency)
    if array.ndim != 2 or not array.size:
        raise MetricError(f"the map is {array.shape}; give one value for each pixel, [H, W]")
    if shape is not None and array.shape != shape:
        raise MetricError(f"the map is {array.shape}, the image is {shape}")
    if array.dtype.kind not in "biuf":
        raise MetricError(f"the map is of type {array.dtype}; give real numbers")
    result = array.astype(np.float64)
    if np.isnan(result).any():
        raise MetricError("the map has NaN values: it ranks no pixels")
    if np.isinf(result).any():
        raise MetricError("the map has infinite values; give finite ones")
    return result


def checked_region(region: npt.NDArray[Any], shape: tuple[int, ...]) -> Region:
    """Return a region as bool [H, W].

    Raises
    ------
    MetricError
        It is of another shape, empty, or the whole picture, where every map is right.
    """
    array = np.asarray(region)
    if array.shape != shape:
        raise MetricError(f"the region is {array.shape}, the map is {shape}")
    if array.dtype.kind not in "biu":
        raise MetricError(f"the region is of type {array.dtype}; give booleans")
    result = array.astype(bool)
    if not result.any():
        raise MetricError("the region is empty: nothing can be in it")
    if result.all():
        raise MetricError("the region is the whole picture: every map is in it")
    return result


def box_region(box: tuple[float, float, float, float], shape: tuple[int, int]) -> Region:
    """Return the pixels of a box as bool [H, W].

    Parameters
    ----------
    box
        (x0, y0, x1, y1) in pixels, the right and lower ends not included. A pixel belongs to the
        box when its centre does; what reaches beyond the picture is cut off.
    shape
        (H, W).

    Raises
    ------
    MetricError
        The box is turned around, not finite, or holds no pixel of the picture.
    """
    left, top, right, bottom = box
    if not (np.isfinite(box).all() and left < right and top < bottom):
        raise MetricError(f"the box is {tuple(box)}; give (x0, y0, x1, y1) with x0 < x1, y0 < y1")
    rows, columns = (np.arange(size) + 0.5 for size in shape)
    down = (rows >= top) & (rows < bottom)
    across = (columns >= left) & (columns < right)
    region = down[:, None] & across[None, :]
    if not region.any():
        raise MetricError(f"the box {tuple(box)} holds no pixel of a picture of {shape}")
    return region


def falling_order(values: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Return the places of `values`, flattened, from the highest to the lowest.

    Ties go by position, row by row. Every metric that ranks does it here.
    """
    return np.argsort(-values.ravel(), kind="stable").astype(np.int64)


def ranks(order: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return at which turn each place comes, from the order of places."""
    result = np.empty(order.size, np.int64)
    result[order] = np.arange(order.size)
    return result


def stretched(values: Map) -> Map:
    """Return a map stretched to [0, 1]; a constant map, which singles nothing out, becomes 0."""
    low, high = values.min(), values.max()
    if low == high:
        return np.zeros_like(values)
    # Divided first, so that the largest of floats do not overflow.
    scale = max(abs(low), abs(high))
    result: Map = (values / scale - low / scale) / (high / scale - low / scale)
    return result

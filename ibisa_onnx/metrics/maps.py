"""Validation and ranking of maps and regions, shared by all metrics.

Maps are converted to float64, so that a uint8 map is ranked like the same map in floats.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ibisa_onnx.errors import MetricError

Saliency = npt.NDArray[Any]
"""A map [H, W] of any real dtype; higher is more important."""
Map = npt.NDArray[np.float64]
"""A validated map [H, W]."""
Region = npt.NDArray[np.bool_]
"""Pixels [H, W] that belong to an object."""


def checked_map(saliency: Saliency, shape: tuple[int, ...] | None = None) -> Map:
    """Validate a map and return it as float64 [H, W].

    Raises
    ------
    MetricError
        The map is not a finite real array of two dimensions, or not of the given shape.
    """
    array = np.asarray(saliency)
    if array.ndim != 2 or not array.size:
        raise MetricError(f"the map has shape {array.shape}; pass one value per pixel, [H, W]")
    if shape is not None and array.shape != shape:
        raise MetricError(f"the map has shape {array.shape}, but the image has {shape}")
    if array.dtype.kind not in "biuf":
        raise MetricError(f"the map has dtype {array.dtype}; pass real numbers")
    result = array.astype(np.float64)
    if np.isnan(result).any():
        raise MetricError("the map contains NaN and cannot rank pixels")
    if np.isinf(result).any():
        raise MetricError("the map contains infinite values; pass finite ones")
    return result


def checked_region(region: npt.NDArray[Any], shape: tuple[int, ...]) -> Region:
    """Validate a region and return it as bool [H, W].

    Raises
    ------
    MetricError
        The region has another shape, is empty, or covers the whole image.
    """
    array = np.asarray(region)
    if array.shape != shape:
        raise MetricError(f"the region has shape {array.shape}, but the map has {shape}")
    if array.dtype.kind not in "biu":
        raise MetricError(f"the region has dtype {array.dtype}; pass booleans")
    result = array.astype(bool)
    if not result.any():
        raise MetricError("the region is empty; select at least one pixel")
    if result.all():
        raise MetricError("the region covers the whole image; select a part of it")
    return result


def box_region(box: tuple[float, float, float, float], shape: tuple[int, int]) -> Region:
    """Convert a box to a region.

    Parameters
    ----------
    box
        (x0, y0, x1, y1) in pixels, right and bottom edges excluded. A pixel belongs to the box if
        its centre does; parts beyond the image are cropped.
    shape
        Height and width of the image.

    Returns
    -------
    numpy.ndarray
        bool [H, W], True inside the box.

    Raises
    ------
    MetricError
        The box is inverted or not finite, or contains no pixel of the image.
    """
    left, top, right, bottom = box
    if not (np.isfinite(box).all() and left < right and top < bottom):
        raise MetricError(f"the box is {tuple(box)}; pass (x0, y0, x1, y1) with x0 < x1, y0 < y1")
    rows, columns = (np.arange(size) + 0.5 for size in shape)
    down = (rows >= top) & (rows < bottom)
    across = (columns >= left) & (columns < right)
    region = down[:, None] & across[None, :]
    if not region.any():
        raise MetricError(f"the box {tuple(box)} contains no pixel of an image of {shape}")
    return region


def falling_order(values: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Return the flat indices of `values` from the highest to the lowest.

    Ties are broken by position, row by row. All metrics rank with this function.
    """
    return np.argsort(-values.ravel(), kind="stable").astype(np.int64)


def ranks(order: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the rank of each index, given the order of indices."""
    result = np.empty(order.size, np.int64)
    result[order] = np.arange(order.size)
    return result


def stretched(values: Map) -> Map:
    """Return a map scaled to [0, 1]; a constant map becomes 0."""
    low, high = values.min(), values.max()
    if low == high:
        return np.zeros_like(values)
    # Divided first, so that very large floats do not overflow.
    scale = max(abs(low), abs(high))
    result: Map = (values / scale - low / scale) / (high / scale - low / scale)
    return result

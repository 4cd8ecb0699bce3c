"""Reduces large images on reading, by means over squares of pixels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[Any]
Reduction = Callable[[tuple[int, int]], int]
"""Returns the factor by which an image of some height and width is reduced: 1, 2, 4 or 8."""

_STRIP = 1 << 20  # pixels that are averaged at once
_DIRECT = (np.uint8, np.uint16, np.float32)  # dtypes that OpenCV averages directly


def area_means(values: Values, factor: int) -> Values:
    """Return the means over squares of `factor` by `factor` pixels.

    Parameters
    ----------
    values
        [H, W] or [H, W, C], integers or floats; the last of four channels is opacity, which weights
        the others.
    factor
        Reduction of both sides; 1 returns `values` itself.

    Returns
    -------
    ndarray
        [ceil(H / factor), ceil(W / factor)], with channels if there are any, of the same dtype;
        squares that extend beyond the image repeat its edge.
    """
    if factor == 1:
        return values
    height, width = values.shape[:2]
    means = np.empty((-(-height // factor), -(-width // factor), *values.shape[2:]), values.dtype)
    rows = max(1, _STRIP // (width * factor))
    for row in range(0, len(means), rows):
        part = values[row * factor : (row + rows) * factor]
        means[row : row + rows] = _means(part, factor).reshape(means[row : row + rows].shape)
    return means


def _means(values: Values, factor: int) -> Values:
    """Average a strip of rows; integers are rounded."""
    import cv2

    high, wide = (-(-side // factor) for side in values.shape[:2])
    beyond = [(0, high * factor - values.shape[0]), (0, wide * factor - values.shape[1])]
    padded = np.pad(values, beyond + [(0, 0)] * (values.ndim - 2), mode="edge")

    def shrunk(each: Values) -> Values:
        return np.asarray(cv2.resize(each, (wide, high), interpolation=cv2.INTER_AREA))

    if values.ndim == 3 and values.shape[2] == 4:
        colour, alpha = padded[..., :3].astype(np.float64), padded[..., 3:].astype(np.float64)
        opacity = shrunk(alpha)
        weighed = shrunk(colour * alpha) / np.where(opacity == 0, 1, opacity)[..., None]
        seen = np.where(opacity[..., None] == 0, shrunk(colour), weighed)
        means = np.dstack([seen, opacity])
    else:
        means = shrunk(padded if values.dtype in _DIRECT else padded.astype(np.float64))
    return np.rint(means) if values.dtype.kind in "iu" else means

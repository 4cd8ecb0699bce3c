"""Converts values of any depth to 8-bit RGB.

White is the value of full brightness: 255, 65535 for 16 bits, 1 for floats in 0..1. For other
integers and floats it is unknown; only models that use values unchanged support them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from ibisa_onnx.errors import ImageError

Values = npt.NDArray[Any]
Pixels = npt.NDArray[np.uint8]

MAX_CHANNELS = 16
_PART = 1 << 20  # values converted at a time


def as_channels(values: Values, label: str) -> Values:
    """Return an image's values as [H, W, C], finite reals with 1 to 16 channels.

    Raises
    ------
    ImageError
        They have another shape or dtype.
    """
    shape = list(values.shape)
    values = values[..., None] if values.ndim == 2 else values
    if values.ndim != 3 or values.shape[2] > MAX_CHANNELS or values.size == 0:
        raise ImageError(
            f"{label} has shape {shape}; pass [H, W], or [H, W, C] of up to {MAX_CHANNELS} channels"
        )
    if values.dtype.kind not in "biuf":
        raise ImageError(f"{label} has {values.dtype} pixels; pass integers 0..255 or floats 0..1")
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise ImageError(f"{label} has NaN or infinite {values.dtype} pixels; replace them")
    return values


def find_white(values: Values) -> float | None:
    """Return the value of full brightness; None if unknown."""
    if values.dtype == np.uint16:
        return 65535.0
    most = 1.0 if values.dtype.kind == "f" else 255.0
    return most if values.min() >= 0 and values.max() <= most else None


def to_8_bits(values: Values, white: float) -> Pixels:
    """Scale 0..white to 0..255, rounded to the nearest."""
    if white == 255 and values.dtype.kind in "biu":
        return values.astype(np.uint8)
    if values.dtype == np.uint16:  # 65535 / 255 = 257
        return _by_rows(values, np.uint8, lambda part: (part.astype(np.uint32) + 128) // 257)
    factor = np.float64(255 / white)
    return _by_rows(values, np.uint8, lambda part: np.rint(np.clip(part * factor, 0, 255)))


def to_rgb(values: Values, white: float, label: str) -> Values:
    """Convert [H, W, C], grey, RGB or RGBA, to RGB of the same dtype, with transparency over white.

    Raises
    ------
    ImageError
        There is another number of channels.
    """
    channels = values.shape[2]
    if channels not in (1, 3, 4):
        raise ImageError(f"{label} has {channels} channels; pass [H, W, 3], RGB")
    if channels == 4:
        values = _over_white(values, white)
    return np.ascontiguousarray(np.broadcast_to(values, (*values.shape[:2], 3)))


def drawn(values: Values, white: float | None) -> Pixels:
    """Return an image [H, W, C] as it is displayed: uint8 [H, W, 3], RGB.

    For channels other than colours, the first three or the first. The contrast is stretched from
    the smallest to the largest value if that is less than half of the dtype's range, or white is
    unknown: 12 bits in 16 would be black.
    """
    channels = values.shape[2]
    if channels not in (1, 3, 4):
        values = values[..., :3] if channels > 3 else values[..., :1]
    low, high = (float(each) for each in (values[..., :3].min(), values[..., :3].max()))
    if white is None or (white != 255 and high - low < white / 2):
        share = 1.0 if math.isfinite(high - low) else 0.25  # may overflow float64
        low, scale = share * low, 255 / max(share * high - share * low, 1e-300)
        shown = values[..., :3]
        stretched = _by_rows(
            shown, np.uint8, lambda part: np.rint((part.astype(np.float64) * share - low) * scale)
        )
        return to_rgb(stretched, 255, "")
    return to_rgb(to_8_bits(values, white), 255, "")


def _over_white(rgba: Values, white: float) -> Values:
    """Composite RGBA over white, as a viewer does."""

    def laid(part: Values) -> Values:
        if part.dtype.kind == "f":
            alpha = part[..., 3:] / white
            return np.asarray(part[..., :3] * alpha + white * (1 - alpha))
        full = np.uint64(white)
        colour, alpha = part[..., :3].astype(np.uint64), part[..., 3:].astype(np.uint64)
        return np.asarray((colour * alpha + full * (full - alpha) + full // 2) // full)

    return _by_rows(rgba, rgba.dtype, laid, channels=3)


def _by_rows(
    values: Values, dtype: npt.DTypeLike, change: Callable[[Values], Values], channels: int = 0
) -> Values:
    """Convert [H, W, C] a few rows at a time, to bound the memory of intermediate values."""
    height, width, own = values.shape
    changed = np.empty((height, width, channels or own), dtype)
    rows = max(1, _PART // (width * own))
    for row in range(0, height, rows):
        changed[row : row + rows] = change(values[row : row + rows])
    return changed

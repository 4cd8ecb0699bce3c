"""Masked images: z = m x + (1 - m) b, and the derivative with respect to the masks.

`masked_graph` is the same formula as part of an ONNX graph. Masks live on a grid of cells a few
pixels wide and are interpolated bilinearly. Whole images are resized by OpenCV rather than by
matrix products, because BLAS would wake threads whose busy waiting slows down ONNX Runtime.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class MaskedImages:
    """Images and their baselines, float32 [N, C, H, W] in model space."""

    images: Floats
    baselines: Floats

    def __len__(self) -> int:
        return len(self.images)

    def take(self, rows: Sequence[int] | npt.NDArray[Any]) -> MaskedImages:
        """Return the given rows, which may repeat."""
        chosen = np.asarray(rows, np.intp)
        return MaskedImages(self.images[chosen], self.baselines[chosen])

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        height, width = self.images.shape[2:]
        return height, width

    def through(self, masks: Floats) -> Floats:
        """Return z, [M, C, H, W], for masks [M, 1, h, w] on any grid; M is N, or N is 1."""
        mask = enlarge(masks, self.size)
        # Not b + m (x - b), with which a mask of ones would not reproduce x exactly.
        return mask * self.images + (1 - mask) * self.baselines

    def vjp(self, cotangent: Floats, grid: tuple[int, int]) -> Floats:
        """Return the cotangent of masks [M, 1, h, w] on a grid from that of z, [M, C, H, W]."""
        large = (cotangent * (self.images - self.baselines)).sum(1, keepdims=True)
        if grid == self.size:
            return np.asarray(large)
        rows, columns = interpolation(grid, self.size)
        return np.asarray(rows.T @ large @ columns)


def enlarge(mask: Floats, size: tuple[int, int]) -> Floats:
    """Interpolate [N, 1, h, w] bilinearly to [N, 1, H, W]."""
    height, width = size
    large = np.empty((len(mask), 1, height, width), np.float32)
    for each, cells in zip(large, mask, strict=True):
        each[0] = cv2.resize(cells[0], (width, height), interpolation=cv2.INTER_LINEAR)
    return large


def interpolation(grid: tuple[int, int], size: tuple[int, int]) -> tuple[Floats, Floats]:
    """Return R [H, h] and C [W, w] such that R s C^T is a mask s [h, w] resized to [H, W]."""
    rows, columns = (_bilinear(*sides) for sides in zip(grid, size, strict=True))
    return rows, columns


@lru_cache(maxsize=64)
def _bilinear(cells: int, pixels: int) -> Floats:
    """Return the matrix [pixels, cells] that interpolates a row of cells linearly.

    Cells and pixels span the same length, and values are located at their centres.
    """
    places = np.clip((np.arange(pixels) + 0.5) * cells / pixels - 0.5, 0, cells - 1)
    return read_only(np.clip(1 - np.abs(places[:, None] - np.arange(cells)), 0, None))


def read_only(values: npt.NDArray[np.float64]) -> Floats:
    """Return read-only float32 values, safe to cache and share."""
    rounded = values.astype(np.float32)
    rounded.flags.writeable = False
    return rounded

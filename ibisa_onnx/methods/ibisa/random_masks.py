"""Smooth random masks for forward-only queries."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np

from ibisa_onnx.gradients.masked_images import Floats
from ibisa_onnx.methods.masking import sigmoid

_SHARPNESS = 3.0  # of the sigmoid over unit normal noise: most pixels are below 0.2 or above 0.8


def smooth_masks(
    rng: np.random.Generator,
    count: int,
    size: tuple[int, int],
    batch: int,
    *,
    cells: int = 8,
    lean: Floats | None = None,
) -> Iterator[Floats]:
    """Draw masks: normal noise on a coarse grid, shifted at random, upsampled and squashed.

    The masks do not depend on `batch`.

    Parameters
    ----------
    rng
        Random generator.
    count
        Number of masks.
    size
        Height and width of the masks.
    batch
        Number of masks yielded at once.
    cells
        Cells on the longer side of the noise's grid; RISE usually has 7.
    lean
        Bias, [count, h, w] on any grid, added to the noise of unit variance: where it is positive,
        pixels are shown more often than not. None for none: a mask and its complement then have the
        same distribution.

    Yields
    ------
    ndarray
        float32 [batch or fewer, 1, H, W] in 0..1.
    """
    cell = max(1, -(-max(size) // cells))
    rows, columns = (-(-side // cell) + 3 for side in size)
    noise = rng.standard_normal((count, rows, columns)).astype(np.float32)
    shifts = rng.integers(cell, size=(count, 2))
    for begin in range(0, count, batch):
        block = slice(begin, begin + batch)
        masks = np.empty((len(shifts[block]), 1, *size), np.float32)
        for place, mask in enumerate(masks, begin):
            top, left = shifts[place] + cell // 2
            large = _enlarged(noise[place], (rows * cell, columns * cell))
            part = large[top : top + size[0], left : left + size[1]]
            bias = 0.0 if lean is None else _enlarged(lean[place], size)
            mask[0] = sigmoid(_SHARPNESS * (part + bias))
        yield masks


def _enlarged(field: Floats, size: tuple[int, int]) -> Floats:
    return np.asarray(cv2.resize(field, size[::-1], interpolation=cv2.INTER_CUBIC))

"""Smooth random masks for queries by forward passes alone."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np

from ibisa_onnx.bottleneck import Floats, sigmoid

_CELLS = 8  # on the longer side: the masks' own grid, near the 7 of RISE
_SHARPNESS = 3.0  # of the sigmoid over unit normal noise: most pixels are below 0.2 or above 0.8


def smooth_masks(
    rng: np.random.Generator, count: int, size: tuple[int, int], batch: int
) -> Iterator[Floats]:
    """Draw masks: normal noise on a coarse grid, shifted at random, interpolated and squashed.

    The complement of a mask has the same distribution. What is drawn does not depend on the batch.

    Yields
    ------
    float32 [batch or what is left, 1, H, W] in 0..1
    """
    cell = max(1, -(-max(size) // _CELLS))
    rows, columns = (-(-side // cell) + 3 for side in size)
    noise = rng.standard_normal((count, rows, columns)).astype(np.float32)
    shifts = rng.integers(cell, size=(count, 2))
    for begin in range(0, count, batch):
        block = slice(begin, begin + batch)
        masks = np.empty((len(shifts[block]), 1, *size), np.float32)
        for mask, field, (top, left) in zip(
            masks, noise[block], shifts[block] + cell // 2, strict=True
        ):
            large = cv2.resize(field, (columns * cell, rows * cell), interpolation=cv2.INTER_CUBIC)
            mask[0] = sigmoid(_SHARPNESS * large[top : top + size[0], left : left + size[1]])
        yield masks

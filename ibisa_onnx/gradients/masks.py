"""Smooth random masks for queries by forward passes alone."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F

_CELLS = 8  # on the longer side: the masks' own grid, near the 7 of RISE
_SHARPNESS = 3.0  # of the sigmoid over unit normal noise: most pixels are below 0.2 or above 0.8


def smooth_masks(
    rng: np.random.Generator, count: int, size: tuple[int, int], batch: int
) -> Iterator[torch.Tensor]:
    """Draw masks: normal noise on a coarse grid, shifted at random, interpolated and squashed.

    The complement of a mask has the same distribution. What is drawn does not depend on the batch.

    Yields
    ------
    float32 [batch or what is left, 1, H, W] in 0..1
    """
    cell = max(1, -(-max(size) // _CELLS))
    rows, columns = (-(-side // cell) + 3 for side in size)
    noise = torch.from_numpy(rng.standard_normal((count, 1, rows, columns)).astype(np.float32))
    shifts = rng.integers(cell, size=(count, 2))
    for begin in range(0, count, batch):
        block = slice(begin, begin + batch)
        masks = torch.empty(len(shifts[block]), 1, *size)
        for mask, field, (top, left) in zip(
            masks, noise[block], shifts[block] + cell // 2, strict=True
        ):
            large = F.interpolate(field[None], scale_factor=float(cell), mode="bicubic")
            cut = large[0, :, top : top + size[0], left : left + size[1]]
            mask[:] = torch.sigmoid(_SHARPNESS * cut)
        yield masks

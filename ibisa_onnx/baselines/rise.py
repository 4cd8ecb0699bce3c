"""RISE: the score averaged over random masks (Petsiuk et al., arXiv 1806.07421).

Masks are drawn, used and forgotten a batch at a time, so memory does not grow with their number.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from ibisa_onnx.metrics.insertion_deletion import FloatArray, Score


def rise(
    score: Score,
    image: FloatArray,
    *,
    rng: np.random.Generator,
    masks: int = 4000,
    grid: int = 7,
    keep: float = 0.5,
    centred: bool = False,
    batch: int = 8,
) -> npt.NDArray[np.float32]:
    """RISE's saliency map.

    Parameters
    ----------
    score
        Takes float32 [N, C, H, W] in model space, gives [N].
    image
        float32 [C, H, W] in model space; masked pixels become zero there.
    rng
        Draws the masks.
    masks, grid, keep
        How many masks, cells a side, and the probability that a cell is kept (N, h = w and p of
        the paper's section 3).
    centred
        Subtract the mean mask and the mean score (covariance in place of the raw moment): the same
        expectation up to a constant, at far smaller variance. The paper's estimator does not.
    batch
        Masks in one call of `score`.

    Returns
    -------
    float32 [H, W]
        Equation 6 of the paper: the sum of score times mask, over N p.
    """
    height, width = image.shape[1:]
    weighted = np.zeros((height, width))
    total = np.zeros((height, width))
    score_sum = 0.0
    for block in _masks(rng, masks, grid, keep, height, width, batch):
        scores = np.asarray(score(block[:, None] * image[None]), np.float64)
        for mask, one in zip(block, scores, strict=True):  # this order, whatever the batch
            weighted += one * mask
            total += mask
            score_sum += float(one)
    if centred:
        weighted -= total * score_sum / masks
    return (weighted / (masks * keep)).astype(np.float32)


def _masks(
    rng: np.random.Generator,
    masks: int,
    grid: int,
    keep: float,
    height: int,
    width: int,
    batch: int,
) -> Iterator[FloatArray]:
    """Batches [n, H, W] of binary grids, enlarged bilinearly, shifted at random (section 3.2)."""
    import cv2

    cell_height, cell_width = -(-height // grid), -(-width // grid)
    size = ((grid + 1) * cell_width, (grid + 1) * cell_height)
    for begin in range(0, masks, batch):
        block = np.empty((min(batch, masks - begin), height, width), np.float32)
        for mask in block:
            cells = (rng.random((grid, grid)) < keep).astype(np.float32)
            top, left = rng.integers(cell_height), rng.integers(cell_width)
            large = cv2.resize(cells, size, interpolation=cv2.INTER_LINEAR)
            mask[:] = large[top : top + height, left : left + width]
        yield block

"""Insertion and deletion: the model's score as pixels appear, or vanish, by falling saliency.

The protocol is that of RISE (Petsiuk et al., arXiv 1806.07421, section 4.3, and its published
code): insertion starts from a blurred picture, deletion ends at zeros in normalised space, 224 * 8
pixels a step at 224 x 224, and the area under the curve by the trapezoidal rule. Here live only
these two measures; they know a score function and arrays, no model and no file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
Score = Callable[[FloatArray], npt.NDArray[np.floating]]
"""Images float32 [N, C, H, W] in model space to scores [N]."""


@dataclass(frozen=True)
class Curve:
    """Scores along the way from the first picture to the last.

    Attributes
    ----------
    scores
        float64 [steps + 1].
    """

    scores: npt.NDArray[np.float64]

    @property
    def auc(self) -> float:
        """Area under the curve on a unit axis, by the trapezoidal rule."""
        ends = (self.scores[0] + self.scores[-1]) / 2
        return float((self.scores.sum() - ends) / (len(self.scores) - 1))


def blurred(image: FloatArray, *, kernel: int = 11, sigma: float = 5.0) -> FloatArray:
    """Blur an image as RISE's insertion does: a Gaussian of `sigma` cut to `kernel` pixels.

    Parameters
    ----------
    image
        float32 [C, H, W]. Pixels beyond the border count as zero, as in RISE's code.

    Returns
    -------
    float32 [C, H, W]
    """
    import cv2

    planes = [
        cv2.GaussianBlur(plane, (kernel, kernel), sigma, borderType=cv2.BORDER_CONSTANT)
        for plane in image
    ]
    return np.stack(planes).astype(np.float32)


def insertion(
    score: Score,
    image: FloatArray,
    saliency: npt.NDArray[np.floating],
    *,
    start: FloatArray | None = None,
    step: int | None = None,
    batch: int = 8,
) -> Curve:
    """Score as the most salient pixels are put into a blurred picture first. Higher is better.

    Parameters
    ----------
    score
        Takes float32 [N, C, H, W] in model space, gives [N].
    image
        float32 [C, H, W] in model space.
    saliency
        [H, W]; ties are broken by position, row by row, the same way everywhere.
    start
        float32 [C, H, W], the picture before the first pixel; `blurred(image)` unless given.
    step
        Pixels a step; 8 rows of pixels unless given.
    batch
        Images in one call of `score`.
    """
    first = blurred(image) if start is None else start
    return _replace(score, first, image, saliency, step, batch)


def deletion(
    score: Score,
    image: FloatArray,
    saliency: npt.NDArray[np.floating],
    *,
    end: FloatArray | None = None,
    step: int | None = None,
    batch: int = 8,
) -> Curve:
    """Score as the most salient pixels are taken out of the picture first. Lower is better.

    The parameters are those of `insertion`; `end` is the picture after the last pixel, zeros in
    model space unless given.
    """
    last = np.zeros_like(image) if end is None else end
    return _replace(score, image, last, saliency, step, batch)


def _replace(
    score: Score,
    first: FloatArray,
    last: FloatArray,
    saliency: npt.NDArray[np.floating],
    step: int | None,
    batch: int,
) -> Curve:
    """Scores while pixels of `first` give way to those of `last`, most salient first."""
    channels, height, width = first.shape
    if saliency.shape != (height, width):
        raise ValueError(f"saliency is {saliency.shape}, the image is {(height, width)}")
    if np.isnan(saliency).any():
        raise ValueError("saliency has NaN values: it ranks no pixels")
    pixels = 8 * width if step is None else step
    if pixels < 1:
        raise ValueError(f"step is {step}; give 1 pixel or more")
    order = np.argsort(-saliency.ravel().astype(np.float64), kind="stable")
    counts = np.minimum(np.arange(0, order.size + pixels, pixels), order.size)
    rank = np.empty(order.size, np.int64)
    rank[order] = np.arange(order.size)
    scores = []
    for begin in range(0, len(counts), batch):
        replaced = rank[None, None] < counts[begin : begin + batch, None, None]
        images = np.where(replaced, last.reshape(1, channels, -1), first.reshape(1, channels, -1))
        scores.append(score(images.reshape(-1, channels, height, width).astype(np.float32)))
    return Curve(np.concatenate(scores).astype(np.float64))

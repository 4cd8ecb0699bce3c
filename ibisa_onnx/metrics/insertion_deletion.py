"""Insertion and deletion: the model's score as pixels appear, or vanish, by falling saliency.

The protocol is that of RISE (Petsiuk et al., arXiv 1806.07421, section 4.3, and its published
code): insertion starts from a blurred picture, deletion ends at zeros in normalized space, 28
steps of 224 * 8 pixels at 224 x 224, and the area under the curve by the trapezoidal rule. Here
live only these two measures; they know a score function and arrays, no model and no file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ibisa_onnx.errors import OptionError
from ibisa_onnx.metrics.maps import Saliency, checked_map, falling_order, ranks
from ibisa_onnx.metrics.subject import FloatArray, Score, score_all

__all__ = [
    "RISE",
    "Curve",
    "FloatArray",
    "Protocol",
    "Score",
    "blurred",
    "deletion",
    "insertion",
    "replaced",
]


@dataclass(frozen=True)
class Protocol:
    """How pixels come and go.

    Attributes
    ----------
    kernel, sigma
        The Gaussian that blurs the picture from which insertion starts, in pixels; `kernel` is
        odd.
    steps
        Into how many steps the pixels are divided. The last one takes what is left.

    Raises
    ------
    OptionError
        One of them is out of its range.
    """

    kernel: int = 11
    sigma: float = 5.0
    steps: int = 28

    def __post_init__(self) -> None:
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise OptionError(f"the blur's kernel is {self.kernel}; give an odd number of pixels")
        if not self.sigma > 0:
            raise OptionError(f"the blur's sigma is {self.sigma}; give more than 0 pixels")
        if self.steps < 1:
            raise OptionError(f"there are {self.steps} steps; give 1 or more")

    def step(self, height: int, width: int) -> int:
        """Return how many pixels come or go in a step."""
        return -(-height * width // self.steps)


RISE = Protocol()
"""RISE's: a blur of 11 pixels and sigma 5, and 28 steps, which at 224 x 224 are its 224 * 8 pixels.
RISE knows no other size; with 28 steps at every size an area is as fine, and costs as much."""


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
        """Area under the curve on a unit axis, by the trapezoidal rule, all steps alike."""
        ends = (self.scores[0] + self.scores[-1]) / 2
        return float((self.scores.sum() - ends) / (len(self.scores) - 1))


def blurred(image: FloatArray, *, kernel: int = 11, sigma: float = 5.0) -> FloatArray:
    """Blur an image as RISE's insertion does: a Gaussian of `sigma` cut to `kernel` pixels.

    Parameters
    ----------
    image
        float32 [C, H, W]. Pixels beyond the border count as zero, as in RISE's code. (There the
        tails of the Gaussian are folded back into the kernel, which makes it all but a box; here
        they are cut off.)

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
    saliency: Saliency,
    *,
    start: FloatArray | None = None,
    step: int | None = None,
    batch: int = 8,
    protocol: Protocol = RISE,
) -> Curve:
    """Score as the most salient pixels are put into a blurred picture first. Higher is better.

    Parameters
    ----------
    score
        Takes float32 [N, C, H, W] in model space, gives [N].
    image
        float32 [C, H, W] in model space.
    saliency
        [H, W], any real type; ties are broken by position, row by row, the same way everywhere.
    start
        float32 [C, H, W], the picture before the first pixel; the image, blurred by the protocol,
        unless given.
    step
        Pixels a step; the protocol's unless given.
    batch
        Images in one call of `score`.
    protocol
        Blur and steps; RISE's unless given.

    Raises
    ------
    MetricError
        The map does not fit the image, or has NaN values.
    OutputError
        The model's scores are not finite.
    """
    if start is None:
        start = blurred(image, kernel=protocol.kernel, sigma=protocol.sigma)
    pixels = protocol.step(*image.shape[1:]) if step is None else step
    return _curve(score, start, image, saliency, pixels, batch)


def deletion(
    score: Score,
    image: FloatArray,
    saliency: Saliency,
    *,
    end: FloatArray | None = None,
    step: int | None = None,
    batch: int = 8,
    protocol: Protocol = RISE,
) -> Curve:
    """Score as the most salient pixels are taken out of the picture first. Lower is better.

    The parameters are those of `insertion`; `end` is the picture after the last pixel, zeros in
    model space unless given.
    """
    last = np.zeros_like(image) if end is None else end
    pixels = protocol.step(*image.shape[1:]) if step is None else step
    return _curve(score, image, last, saliency, pixels, batch)


def replaced(
    first: FloatArray,
    last: FloatArray,
    rank: npt.NDArray[np.int64],
    counts: npt.NDArray[np.int64],
) -> Iterator[FloatArray]:
    """Yield `first` with those pixels from `last` whose rank [H, W] is below each of `counts`."""
    for count in counts:
        yield np.where(rank < count, last, first).astype(np.float32, copy=False)


def _curve(
    score: Score,
    first: FloatArray,
    last: FloatArray,
    saliency: Saliency,
    step: int,
    batch: int,
) -> Curve:
    """Scores while pixels of `first` give way to those of `last`, most salient first."""
    if step < 1:
        raise OptionError(f"step is {step}; give 1 pixel or more")
    values = checked_map(saliency, first.shape[1:])
    rank = ranks(falling_order(values)).reshape(values.shape)
    counts = np.minimum(np.arange(0, values.size + step, step), values.size)
    return Curve(score_all(score, replaced(first, last, rank, counts), batch))

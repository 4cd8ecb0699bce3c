"""Insertion and deletion: the model's score as pixels appear, or vanish, by falling saliency.

The protocol is that of RISE (Petsiuk et al., arXiv 1806.07421, section 4.3, and its published
code): insertion starts from a blurred picture, deletion ends at zeros in normalized space, 28
steps of 224 * 8 pixels at 224 x 224, and the area under the curve by the trapezoidal rule. Here
live only these two measures; they know a score function and arrays, no model and no file.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ibisa_onnx.errors import OptionError
from ibisa_onnx.metrics.imputation import Imputation, blurred, replacing
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


def insertion(
    score: Score,
    image: FloatArray,
    saliency: Saliency,
    *,
    start: FloatArray | None = None,
    step: int | None = None,
    batch: int = 8,
    protocol: Protocol = RISE,
    imputation: Imputation | None = None,
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
    imputation
        What stands where pixels are hidden, in place of `start`.

    Raises
    ------
    MetricError
        The map does not fit the image, or has NaN values.
    OutputError
        The model's scores are not finite.
    """
    if start is not None and imputation is not None:
        raise OptionError("start and imputation are both given; give one")
    if imputation is None:
        if start is None:
            start = blurred(image, kernel=protocol.kernel, sigma=protocol.sigma)
        impute = replacing(image, start)
    else:
        impute = imputation.of(image)
    rank = _ranked(saliency, image)
    counts = _counts(rank.size, protocol.step(*rank.shape) if step is None else step)
    return Curve(score_all(score, (impute(rank >= count) for count in counts), batch))


def deletion(
    score: Score,
    image: FloatArray,
    saliency: Saliency,
    *,
    end: FloatArray | None = None,
    step: int | None = None,
    batch: int = 8,
    protocol: Protocol = RISE,
    imputation: Imputation | None = None,
) -> Curve:
    """Score as the most salient pixels are taken out of the picture first. Lower is better.

    The parameters are those of `insertion`; `end` is the picture after the last pixel, zeros in
    model space unless given, and `imputation` stands in its place.
    """
    if end is not None and imputation is not None:
        raise OptionError("end and imputation are both given; give one")
    impute = (
        replacing(image, 0.0 if end is None else end)
        if imputation is None
        else imputation.of(image)
    )
    rank = _ranked(saliency, image)
    counts = _counts(rank.size, protocol.step(*rank.shape) if step is None else step)
    return Curve(score_all(score, (impute(rank < count) for count in counts), batch))


def _ranked(saliency: Saliency, image: FloatArray) -> npt.NDArray[np.int64]:
    """Return at which turn each pixel comes, most salient first, [H, W]."""
    values = checked_map(saliency, image.shape[1:])
    return ranks(falling_order(values)).reshape(values.shape)


def _counts(pixels: int, step: int) -> npt.NDArray[np.int64]:
    """Return how many pixels have come or gone after each step."""
    if step < 1:
        raise OptionError(f"step is {step}; give 1 pixel or more")
    return np.minimum(np.arange(0, pixels + step, step), pixels)

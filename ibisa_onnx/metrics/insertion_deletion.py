"""Insertion and deletion: the model's score as pixels are added or removed by decreasing saliency.

The protocol is that of RISE (Petsiuk et al., arXiv 1806.07421, section 4.3, and its published
code): insertion starts from a blurred image, deletion ends at zeros in normalised space, 28 steps
of 224 * 8 pixels at 224 x 224, and the area under the curve by the trapezoidal rule. Only these two
metrics live here; they work on a score function and arrays, not on models or files.
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
    """Parameters of insertion and deletion.

    Attributes
    ----------
    kernel
        Width in pixels, odd, of the Gaussian kernel that blurs insertion's starting image.
    sigma
        Standard deviation of that Gaussian, in pixels.
    steps
        Number of steps. All have the same number of pixels, except the last, which may have fewer.

    Raises
    ------
    OptionError
        A value is out of range.
    """

    kernel: int = 11
    sigma: float = 5.0
    steps: int = 28

    def __post_init__(self) -> None:
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise OptionError(f"kernel is {self.kernel}; pass an odd number of pixels")
        if not self.sigma > 0:
            raise OptionError(f"sigma is {self.sigma}; pass more than 0 pixels")
        if self.steps < 1:
            raise OptionError(f"steps is {self.steps}; pass 1 or more")

    def step(self, height: int, width: int) -> int:
        """Return the number of pixels per step for an image of that size."""
        return -(-height * width // self.steps)


RISE = Protocol()
"""RISE's protocol: a blur with an 11-pixel kernel and sigma 5, and 28 steps, which are RISE's 224 *
8 pixels at 224 x 224. RISE defines no other size; 28 steps at every size keep resolution and cost
constant."""


@dataclass(frozen=True)
class Curve:
    """Scores from the first image of insertion or deletion to the last.

    Attributes
    ----------
    scores
        float64 [steps + 1].
    """

    scores: npt.NDArray[np.float64]

    @property
    def auc(self) -> float:
        """Area under the curve by the trapezoidal rule, with equal steps on [0, 1]."""
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
    """Compute the insertion curve: scores as pixels are inserted, most salient first.

    The higher the area under the curve, the better the map.

    Parameters
    ----------
    score
        Function from images float32 [N, C, H, W] in model space to scores [N].
    image
        float32 [C, H, W] in model space.
    saliency
        Map [H, W], any real dtype; ties are broken by position, row by row.
    start
        float32 [C, H, W], the image before the first step. Default: `image` blurred by the
        protocol.
    step
        Pixels per step. Default: the protocol's.
    batch
        Images per call of `score`.
    protocol
        Blur and number of steps.
    imputation
        What replaces pixels that are not inserted yet, instead of `start`.

    Returns
    -------
    Curve
        Scores after each step, the first without any pixel inserted.

    Raises
    ------
    MetricError
        The map differs in shape from the image, or is not finite.
    OptionError
        `start` and `imputation` are both given, or `step` or `batch` is not positive.
    OutputError
        `score` does not return one finite number per image.
    """
    if start is not None and imputation is not None:
        raise OptionError("start and imputation are both given; pass one")
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
    """Compute the deletion curve: scores as pixels are deleted, most salient first.

    The lower the area under the curve, the better the map.

    Parameters
    ----------
    score
        Function from images float32 [N, C, H, W] in model space to scores [N].
    image
        float32 [C, H, W] in model space.
    saliency
        Map [H, W], any real dtype; ties are broken by position, row by row.
    end
        float32 [C, H, W], the image after the last step. Default: zeros in model space.
    step
        Pixels per step. Default: the protocol's.
    batch
        Images per call of `score`.
    protocol
        Number of steps.
    imputation
        What replaces deleted pixels, instead of `end`.

    Returns
    -------
    Curve
        Scores after each step, the first of the unmodified image.

    Raises
    ------
    MetricError
        The map differs in shape from the image, or is not finite.
    OptionError
        `end` and `imputation` are both given, or `step` or `batch` is not positive.
    OutputError
        `score` does not return one finite number per image.
    """
    if end is not None and imputation is not None:
        raise OptionError("end and imputation are both given; pass one")
    impute = (
        replacing(image, 0.0 if end is None else end)
        if imputation is None
        else imputation.of(image)
    )
    rank = _ranked(saliency, image)
    counts = _counts(rank.size, protocol.step(*rank.shape) if step is None else step)
    return Curve(score_all(score, (impute(rank < count) for count in counts), batch))


def _ranked(saliency: Saliency, image: FloatArray) -> npt.NDArray[np.int64]:
    """Return the rank of each pixel, most salient first, [H, W]."""
    values = checked_map(saliency, image.shape[1:])
    return ranks(falling_order(values)).reshape(values.shape)


def _counts(pixels: int, step: int) -> npt.NDArray[np.int64]:
    """Return how many pixels have been added or removed after each step."""
    if step < 1:
        raise OptionError(f"step is {step}; pass 1 pixel or more")
    return np.minimum(np.arange(0, pixels + step, step), pixels)

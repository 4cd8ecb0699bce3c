"""Masks: their grid, and the noise with which they are sampled.

Independent of ONNX. `gradients.masked_images` applies masks to images, `baselines` defines what
replaces masked pixels.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from ibisa_onnx.gradients.masked_images import Floats, read_only

_REACH = 4.0  # of a Gaussian's tails, in standard deviations
_MIRRORED = cv2.BORDER_REFLECT


def sigmoid(logits: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return 1 / (1 + exp(-x)); 0 if exp(-x) overflows."""
    with np.errstate(over="ignore"):
        return np.asarray(1 / (1 + np.exp(-logits)))


def sample(logits: Floats, noise: Floats, temperature: float) -> Floats:
    """Draw a relaxed Bernoulli mask (Maddison et al., arXiv 1611.00712, eq. 20).

    Its derivative with respect to the logits is m (1 - m) / temperature.

    Parameters
    ----------
    logits
        Logits of the keep probabilities lambda, [h, w].
    noise
        [..., h, w]; standard logistic noise yields exactly this distribution.
    temperature
        Masks become binary as it approaches 0.
    """
    return sigmoid((logits + noise) / np.float32(temperature))


def grid_shape(height: int, width: int, cells: int) -> tuple[int, int]:
    """Return rows and columns of a grid of square cells, `cells` on the longer side.

    At most one cell per pixel.
    """
    longer = max(height, width)
    cells = min(cells, longer)
    return max(1, round(height * cells / longer)), max(1, round(width * cells / longer))


def smooth(field: Floats, sigma: float) -> Floats:
    """Convolve [..., h, w] with a Gaussian of `sigma` cells, with mirrored borders.

    Linear and self-adjoint, so it is its own derivative, and gradients do not accumulate at the
    borders.
    """
    if sigma <= 0:
        return field
    # Beyond twice the longer side the result is the mean anyway.
    sigma = min(float(sigma), 2.0 * max(field.shape[-2:]))
    kernel, planes = _gaussian(sigma), field.reshape(-1, *field.shape[-2:])
    smoothed = [cv2.sepFilter2D(each, -1, kernel, kernel, borderType=_MIRRORED) for each in planes]
    return np.asarray(smoothed, field.dtype).reshape(field.shape)


@lru_cache(maxsize=64)  # pure, and called at every step
def _gaussian(sigma: float) -> npt.NDArray[np.float64]:
    """Return a Gaussian's weights at integers, [taps]."""
    taps = np.arange(-math.ceil(_REACH * sigma), math.ceil(_REACH * sigma) + 1)
    weights = np.exp(-(taps**2) / (2 * sigma**2))
    weights /= weights.sum()
    weights.flags.writeable = False
    return weights


@lru_cache(maxsize=8)
def plane_waves(draws: int, shape: tuple[int, int], frequency: float, angle: float = 0.3) -> Floats:
    """Return cosines of unit variance that show broad stripes and hide those between them.

    A fixed design, the quasi-random part of the noise: directions are spread evenly over the half
    circle, and each wave is followed by its negative, so that few draws show and hide every cell
    among many different neighbours.

    Parameters
    ----------
    draws
        Number of waves.
    shape
        Rows and columns of the grid.
    frequency
        Frequency of the coarsest waves, in cycles per longer side; the others have 1.5 and 2 times
        that.
    angle
        Direction of the first wave, in radians; not 0, because much in images is aligned with the
        axes.

    Returns
    -------
    ndarray
        float32 [draws, h, w].
    """
    pairs = -(-draws // 2)
    down, across = ((np.arange(side) + 0.5 - side / 2) / max(shape) for side in shape)
    number = np.arange(pairs)[:, None, None]
    direction = math.pi * number / pairs + angle
    cycles = frequency * (1 + 0.5 * (number % 3))
    along = across[None, None, :] * np.cos(direction) + down[None, :, None] * np.sin(direction)
    wave = math.sqrt(2) * np.cos(2 * math.pi * cycles * along + math.pi / 2 * number)
    return read_only(np.stack([wave, -wave], axis=1).reshape(2 * pairs, *shape)[:draws])

"""Masks: their grid, and the noise that they are sampled with.

It knows masks and nothing of ONNX; how masks reach the images is in `gradients.masked_images`, what
stands where they hide them in `baselines`.
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
_CLIP = 1e-4  # of a uniform draw, so that its logit stays within +-9.2


def sigmoid(logits: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return 1 / (1 + exp(-x)), 0 where exp(-x) is beyond floating point."""
    with np.errstate(over="ignore"):
        return np.asarray(1 / (1 + np.exp(-logits)))


def sample(logits: Floats, noise: Floats, temperature: float) -> Floats:
    """Draw a relaxed Bernoulli mask (Maddison et al., arXiv 1611.00712, eq. 20).

    Its derivative with respect to the logits is m (1 - m) / temperature.

    Parameters
    ----------
    logits
        Of the keep-probabilities lambda, [h, w].
    noise
        [..., h, w]; standard logistic noise gives that very distribution.
    temperature
        Towards 0 the masks become binary.
    """
    return sigmoid((logits + noise) / np.float32(temperature))


def grid_shape(height: int, width: int, cells: int) -> tuple[int, int]:
    """Return rows and columns of a grid of square cells, `cells` on the longer side.

    Never finer than a cell a pixel.
    """
    longer = max(height, width)
    cells = min(cells, longer)
    return max(1, round(height * cells / longer)), max(1, round(width * cells / longer))


def smooth(field: Floats, sigma: float) -> Floats:
    """Convolve [..., h, w] with a Gaussian of `sigma` cells, the field mirrored at its borders.

    Linear and self-adjoint: it is its own derivative, and each cell gives as much as it gets, so
    that gradients do not pile up at the borders.
    """
    if sigma <= 0:
        return field
    # Of twice the longer side it gives the mean, as far as its tails are cut; more is no different.
    sigma = min(float(sigma), 2.0 * max(field.shape[-2:]))
    kernel, planes = _gaussian(sigma), field.reshape(-1, *field.shape[-2:])
    smoothed = [cv2.sepFilter2D(each, -1, kernel, kernel, borderType=_MIRRORED) for each in planes]
    return np.asarray(smoothed, field.dtype).reshape(field.shape)


@lru_cache(maxsize=64)  # a pure function of a number, asked for at every step
def _gaussian(sigma: float) -> npt.NDArray[np.float64]:
    """Return a Gaussian's weights at whole numbers, [taps]."""
    taps = np.arange(-math.ceil(_REACH * sigma), math.ceil(_REACH * sigma) + 1)
    weights = np.exp(-(taps**2) / (2 * sigma**2))
    weights /= weights.sum()
    weights.flags.writeable = False
    return weights


def stratified_noise(rng: np.random.Generator, draws: int, shape: tuple[int, int]) -> Floats:
    """Standard logistic noise, balanced over the draws.

    Each draw is followed by its antithetic half (u, then 1 - u), and for each cell the |noise| of
    the pairs fall into equally likely strata, in random order: ten draws already show every cell
    at every strength. Each draw by itself is logistic.

    Returns
    -------
    float32 [draws, h, w]
    """
    pairs = -(-draws // 2)
    cells = (pairs, *shape)
    order = np.argsort(rng.random(cells), axis=0)
    uniform = (order + rng.random(cells)) / (2 * pairs)  # in 0..1/2, a stratum for each pair
    uniform = np.where(rng.random(cells) < 0.5, uniform, 1 - uniform)
    uniform = np.clip(uniform, _CLIP, 1 - _CLIP)
    half = np.log(uniform) - np.log1p(-uniform)
    noise = np.stack([half, -half], axis=1).reshape(2 * pairs, *shape)[:draws]
    return noise.astype(np.float32)


@lru_cache(maxsize=8)
def plane_waves(draws: int, shape: tuple[int, int], frequency: float, angle: float = 0.3) -> Floats:
    """Cosines of unit variance that show broad stripes and hide those between them.

    A fixed design, the quasi-random part of the noise: directions are spread evenly over the half
    circle, and each wave is followed by its negative, so that few draws show every cell both ways
    among many different neighbours.

    Parameters
    ----------
    draws
        How many.
    shape
        Rows and columns of the grid.
    frequency
        Of the coarsest waves, in cycles on the longer side; others have 1.5 and 2 times that.
    angle
        Direction of the first wave, in radians; not 0, for much of the world is aligned along the
        axes.

    Returns
    -------
    float32 [draws, h, w]
    """
    pairs = -(-draws // 2)
    down, across = ((np.arange(side) + 0.5 - side / 2) / max(shape) for side in shape)
    number = np.arange(pairs)[:, None, None]
    direction = math.pi * number / pairs + angle
    cycles = frequency * (1 + 0.5 * (number % 3))
    along = across[None, None, :] * np.cos(direction) + down[None, :, None] * np.sin(direction)
    wave = math.sqrt(2) * np.cos(2 * math.pi * cycles * along + math.pi / 2 * number)
    return read_only(np.stack([wave, -wave], axis=1).reshape(2 * pairs, *shape)[:draws])

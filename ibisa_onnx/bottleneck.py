"""The bottleneck right after the image: from logits to masks to bottlenecked images.

It knows masks and nothing of ONNX. Masks live on a grid of cells a few pixels wide; tensors are
torch's, so that all of it is differentiable.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F

_TILT = 0.3  # radians; keeps the stripes off the axes, along which much of the world is aligned
_TAIL = 1e-12  # of a Gaussian's peak; what is less is cut, for denormal numbers are slow
_CLIP = 1e-4  # of a uniform draw, so that its logit stays within +-9.2


@dataclass(frozen=True)
class Bottleneck:
    """An image, and what is seen where it is masked: float32 [1, C, H, W] in model space."""

    image: torch.Tensor
    baseline: torch.Tensor

    def through(self, mask: torch.Tensor) -> torch.Tensor:
        """Return z = m x + (1 - m) b, [N, C, H, W], for masks [N, 1, h, w] of any grid."""
        return torch.lerp(self.baseline, self.image, enlarge(mask, self.image.shape[2:]))


def sample(logits: torch.Tensor, noise: torch.Tensor, temperature: float) -> torch.Tensor:
    """Draw a relaxed Bernoulli mask (Maddison et al., arXiv 1611.00712, eq. 20).

    Parameters
    ----------
    logits
        Of the keep-probabilities lambda, [h, w].
    noise
        [..., h, w]; standard logistic noise gives that very distribution.
    temperature
        Towards 0 the masks become binary.
    """
    noisy = logits + noise
    return torch.sigmoid(noisy if temperature == 1 else noisy / temperature)


def grid_shape(height: int, width: int, cells: int) -> tuple[int, int]:
    """Return rows and columns of a grid of square cells, `cells` on the longer side.

    Never finer than a cell a pixel.
    """
    longer = max(height, width)
    cells = min(cells, longer)
    return max(1, round(height * cells / longer)), max(1, round(width * cells / longer))


def smooth(field: torch.Tensor, sigma: float) -> torch.Tensor:
    """Convolve [..., h, w] with a Gaussian of `sigma` cells, the field mirrored at its borders.

    Linear and self-adjoint: each cell gives as much as it gets, so that gradients do not pile up
    at the borders.
    """
    if sigma <= 0:
        return field
    rows, columns = (_gaussian(side, float(sigma)) for side in field.shape[-2:])
    return (rows.to(field.dtype) @ field @ columns.to(field.dtype)).contiguous()


@lru_cache(maxsize=64)  # a pure function of two numbers, asked for at every step
def _gaussian(side: int, sigma: float) -> torch.Tensor:
    """Return the symmetric, doubly stochastic matrix [side, side] of a mirrored Gaussian."""
    cells = torch.arange(side, dtype=torch.float64)
    period = 2 * side  # a mirrored field repeats after this many cells
    reach = math.ceil(4 * sigma / period)
    kernel = torch.zeros(side, side, dtype=torch.float64)
    for shift in range(-reach - 1, reach + 2):
        for image in (cells + shift * period, -1 - cells + shift * period):
            kernel += torch.exp(-((cells[:, None] - image) ** 2) / (2 * sigma**2))
    kernel[kernel < _TAIL] = 0
    return (kernel / kernel.sum(1, keepdim=True)).float()


def enlarge(mask: torch.Tensor, size: tuple[int, int] | torch.Size) -> torch.Tensor:
    """Interpolate [N, 1, h, w] bilinearly to [N, 1, H, W].

    As two products with constant matrices, which torch differentiates several times faster than
    its own interpolation.
    """
    if mask.shape[2:] == tuple(size):
        return mask
    rows, columns = interpolation((mask.shape[2], mask.shape[3]), size)
    return rows @ mask @ columns.T


def interpolation(
    grid: tuple[int, int], size: tuple[int, int] | torch.Size
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return R [H, h] and C [W, w], by which R s C^T is a mask s [h, w] enlarged to [H, W]."""
    rows, columns = (_bilinear(*sides) for sides in zip(grid, size, strict=True))
    return rows, columns


@lru_cache(maxsize=64)  # as `_gaussian`
def _bilinear(cells: int, pixels: int) -> torch.Tensor:
    """Return the matrix [pixels, cells] that interpolates a line of cells."""
    cell = torch.eye(cells)[None]
    return F.interpolate(cell, size=pixels, mode="linear", align_corners=False)[0].T.contiguous()


def blurred(image: torch.Tensor, sigma: float) -> torch.Tensor:
    """Return the image [1, C, H, W] blurred with a Gaussian of `sigma` pixels."""
    return smooth(image, sigma)


def stratified_noise(rng: np.random.Generator, draws: int, shape: tuple[int, int]) -> torch.Tensor:
    """Standard logistic noise, balanced over the draws.

    Each draw is followed by its antithetic half (u, then 1 - u), and for each cell the |noise| of
    the pairs fall into equally likely strata, in random order: ten draws already show every cell
    at every strength. Each draw by itself is logistic.

    Returns
    -------
    float32 [draws, 1, h, w]
    """
    pairs = -(-draws // 2)
    cells = (pairs, *shape)
    order = np.argsort(rng.random(cells), axis=0)
    uniform = (order + rng.random(cells)) / (2 * pairs)  # in 0..1/2, a stratum for each pair
    uniform = np.where(rng.random(cells) < 0.5, uniform, 1 - uniform)
    uniform = np.clip(uniform, _CLIP, 1 - _CLIP)
    half = np.log(uniform) - np.log1p(-uniform)
    noise = np.stack([half, -half], axis=1).reshape(2 * pairs, 1, *shape)[:draws]
    return torch.from_numpy(noise.astype(np.float32))


@lru_cache(maxsize=8)
def plane_waves(draws: int, shape: tuple[int, int], frequency: float) -> torch.Tensor:
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

    Returns
    -------
    float32 [draws, 1, h, w]
    """
    pairs = -(-draws // 2)
    down, across = ((torch.arange(side) + 0.5 - side / 2) / max(shape) for side in shape)
    number = torch.arange(pairs)[:, None, None]
    angle = math.pi * number / pairs + _TILT
    cycles = frequency * (1 + 0.5 * (number % 3))
    along = across[None, None, :] * torch.cos(angle) + down[None, :, None] * torch.sin(angle)
    wave = math.sqrt(2) * torch.cos(2 * math.pi * cycles * along + math.pi / 2 * number)
    return torch.stack([wave, -wave], dim=1).reshape(2 * pairs, 1, *shape)[:draws]

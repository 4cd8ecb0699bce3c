"""Imputation: what stands where pixels of a picture are hidden.

A score under one imputation alone may say more of the imputation than of the map: what hides one
picture leaves another as it was, and what is neutral to one model is evidence to the next. So every
measure that hides pixels takes one of these. They are not the baselines that methods hide pixels by
(`methods.baselines`): a measure must not depend on what it measures.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ibisa_onnx.errors import OptionError
from ibisa_onnx.metrics.maps import Region
from ibisa_onnx.metrics.subject import FloatArray

Impute = Callable[[Region], FloatArray]
"""Hidden pixels, bool [H, W], to the picture without them, float32 [C, H, W]."""

_SEED = (2202, 449)
_NOISE = 0.01  # of ROAD's noisy linear imputation, in standard deviations of a channel
_KERNEL = np.array([[1, 2, 1], [2, 0, 2], [1, 2, 1]], np.float32) / 12
_ACCURACY = 1e-3  # of the linear system's residual; ROAD's noise is larger than what that leaves


@dataclass(frozen=True)
class Imputation:
    """A way to fill hidden pixels.

    Attributes
    ----------
    name
        As tables and options have it.
    description
        What hidden pixels become, in a few words.
    of
        Prepares it for an image, float32 [C, H, W] in model space.
    """

    name: str
    description: str
    of: Callable[[FloatArray], Impute]


def replacing(image: FloatArray, by: npt.NDArray[np.float32] | float) -> Impute:
    """Return what puts `by`, which broadcasts to [C, H, W], where pixels of an image are hidden."""
    filled = np.broadcast_to(np.asarray(by, np.float32), image.shape)
    return lambda hidden: np.where(hidden, filled, image).astype(np.float32, copy=False)


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


def _mean(image: FloatArray) -> FloatArray:
    return np.asarray(image.mean((1, 2), keepdims=True), np.float32)


def _noise(image: FloatArray) -> FloatArray:
    noise = np.random.default_rng(_SEED).standard_normal(image.shape, np.float32)
    return np.asarray(_mean(image) + image.std((1, 2), keepdims=True) * noise)


def _border(image: FloatArray) -> FloatArray:
    ring = np.ones(image.shape[1:], bool)
    ring[1:-1, 1:-1] = False
    return np.asarray(image[:, ring].mean(1)[:, None, None], np.float32)


def _noisy_linear(image: FloatArray) -> Impute:
    """ROAD's imputation: each hidden pixel is the weighted mean of its neighbours, and noise.

    Rong et al., arXiv 2202.00449: direct neighbours weigh 1/6, diagonal ones 1/12; at
    the border the weights of those that are there. Where nothing is left to start from, the mean
    colour. Their noise has a standard deviation of 0.01 in normalised space; here it is 0.01 of
    each channel's, which does not depend on the model's units.
    """
    mean, spread = _mean(image), image.std((1, 2), keepdims=True)
    noise = np.random.default_rng(_SEED).standard_normal(image.shape, np.float32)
    added = np.asarray(_NOISE * spread * noise, np.float32)
    planes = np.ascontiguousarray((image - mean).transpose(1, 2, 0))

    def impute(hidden: Region) -> FloatArray:
        known = (~hidden).astype(np.float32)
        filled = _interpolated(planes * known[..., None], known).transpose(2, 0, 1) + mean
        return np.where(hidden, filled + added, image).astype(np.float32, copy=False)

    return impute


def _interpolated(sums: FloatArray, known: FloatArray) -> FloatArray:
    """Solve the linear system on [H, W, C]: coarse to fine, each level by conjugate gradients.

    `sums` are pixels times `known`, the share [H, W] of each that is known. The system's matrix is
    symmetric and positive definite; what a coarse level has found, enlarged, leaves few iterations
    (a tenth of the time that SciPy's sparse solver takes at 224 x 224).
    """
    import cv2

    hidden, (height, width) = (known <= 0)[..., None], known.shape
    values = np.divide(sums, known[..., None], out=np.zeros_like(sums), where=~hidden)
    if not hidden.any() or hidden.all():
        return values
    half = ((width + 1) // 2, (height + 1) // 2)
    coarse, share = (_resized(each, half, cv2.INTER_AREA) for each in (sums, known[..., None]))
    start = _interpolated(coarse, share[..., 0])
    enlarged = _resized(start, (width, height), cv2.INTER_LINEAR)
    return np.where(hidden, _solved(enlarged, values, hidden), values)


def _resized(values: FloatArray, size: tuple[int, int], how: int) -> FloatArray:
    """Resize [H, W, C] to a width and a height."""
    import cv2

    found = cv2.resize(values, size, interpolation=how)
    return np.asarray(found.reshape(*size[::-1], values.shape[2]), np.float32)


def _solved(start: FloatArray, values: FloatArray, hidden: npt.NDArray[np.bool_]) -> FloatArray:
    """Conjugate gradients for (weights that are there - neighbours) x = known neighbours."""
    weights = _neighbours(np.ones((*values.shape[:2], 1), np.float32))

    def apply(x: FloatArray) -> FloatArray:
        return np.asarray(hidden * (weights * x - _neighbours(x)))

    known = hidden * _neighbours(values)
    x = hidden * start
    residual = known - apply(x)
    direction, size = residual.copy(), float(np.vdot(residual, residual))
    enough = _ACCURACY**2 * float(np.vdot(known, known))
    for _ in range(hidden.size):
        if size <= enough:
            break
        applied = apply(direction)
        step = np.float32(size / float(np.vdot(direction, applied)))
        x += step * direction
        residual -= step * applied
        before, size = size, float(np.vdot(residual, residual))
        direction = residual + np.float32(size / before) * direction
    return np.asarray(x)


def _neighbours(x: FloatArray) -> FloatArray:
    """Return the weighted sum of each pixel's neighbours, [H, W, C]; none are beyond the border."""
    import cv2

    found = cv2.filter2D(x, -1, _KERNEL, borderType=cv2.BORDER_CONSTANT)
    return np.asarray(found.reshape(x.shape), np.float32)


BLUR = Imputation(
    "blur",
    "the picture blurred as in RISE's insertion",
    lambda image: replacing(image, blurred(image)),
)
MEAN = Imputation("mean", "its mean colour", lambda image: replacing(image, _mean(image)))
NOISE = Imputation(
    "noise",
    "its mean colour with white noise as strong as each channel varies",
    lambda image: replacing(image, _noise(image)),
)
BORDER = Imputation(
    "border",
    "the mean colour of its border pixels",
    lambda image: replacing(image, _border(image)),
)
ZEROS = Imputation("zeros", "zeros in model space", lambda image: replacing(image, 0.0))
NOISY_LINEAR = Imputation(
    "noisy linear", "the weighted mean of its neighbours, with faint noise (ROAD)", _noisy_linear
)

IMPUTATIONS: tuple[Imputation, ...] = (BLUR, MEAN, NOISE, BORDER, ZEROS, NOISY_LINEAR)


def imputation_named(name: str) -> Imputation:
    """Return an imputation.

    Raises
    ------
    OptionError
        There is none of that name.
    """
    for each in IMPUTATIONS:
        if each.name == name:
            return each
    names = ", ".join(f"'{each.name}'" for each in IMPUTATIONS)
    raise OptionError(f"there is no imputation {name!r}; choose among {names}")

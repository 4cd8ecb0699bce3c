"""Imputation: what replaces hidden pixels when a metric is computed.

A score under a single imputation may depend more on the imputation than on the map: a blur that
removes one object leaves another recognisable, and a colour that is neutral to one model is
evidence to another. Every metric that hides pixels therefore accepts an imputation. These are
separate from the baselines of the methods (`methods.baselines`), so that a metric does not depend
on the method it evaluates.
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
"""Function from a mask of hidden pixels, bool [H, W], to the imputed image, float32 [C, H, W]."""

_SEED = (2202, 449)
_NOISE = 0.01  # of ROAD's noisy linear imputation, in standard deviations of a channel
_KERNEL = np.array([[1, 2, 1], [2, 0, 2], [1, 2, 1]], np.float32) / 12
_ACCURACY = (
    1e-3  # relative residual of the linear system; the remaining error is below ROAD's noise
)


@dataclass(frozen=True)
class Imputation:
    """A way to fill hidden pixels.

    Attributes
    ----------
    name
        Name in tables and options, such as "blur".
    description
        What hidden pixels become, in a few words.
    of
        Prepares the imputation for an image, float32 [C, H, W] in model space. Returns a function
        from a mask of hidden pixels, bool [H, W], to the imputed image, float32 [C, H, W].
    """

    name: str
    description: str
    of: Callable[[FloatArray], Impute]


def replacing(image: FloatArray, by: npt.NDArray[np.float32] | float) -> Impute:
    """Return a function that replaces hidden pixels of an image by `by`, broadcast to [C, H, W]."""
    filled = np.broadcast_to(np.asarray(by, np.float32), image.shape)
    return lambda hidden: np.where(hidden, filled, image).astype(np.float32, copy=False)


def blurred(image: FloatArray, *, kernel: int = 11, sigma: float = 5.0) -> FloatArray:
    """Blur an image with a truncated Gaussian, as in RISE's insertion.

    Pixels beyond the border count as zero, as in RISE's code. RISE's code folds the tails of the
    Gaussian back into the kernel, which makes it nearly a box filter; here they are truncated.

    Parameters
    ----------
    image
        float32 [C, H, W] in model space.
    kernel
        Width of the kernel in pixels, odd.
    sigma
        Standard deviation of the Gaussian in pixels.

    Returns
    -------
    numpy.ndarray
        float32 [C, H, W].
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
    """ROAD's imputation: each hidden pixel is the weighted mean of its neighbours, plus noise.

    Rong et al., arXiv 2202.00449: direct neighbours weigh 1/6, diagonal ones 1/12; at the border,
    weights are renormalised over the neighbours that exist. If every pixel is hidden, the mean
    colour is used. ROAD's noise has a standard deviation of 0.01 in normalised space; here it is
    0.01 of each channel's, which does not depend on the model's units.
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

    `sums` are pixels times `known`, the known fraction [H, W] of each. The system's matrix is
    symmetric positive definite; starting from the enlarged coarse solution, few iterations remain
    (a tenth of the time of SciPy's sparse solver at 224 x 224).
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
    """Solve (sum of existing weights - neighbours) x = known neighbours by conjugate gradients."""
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
    """Return the weighted sum of each pixel's neighbours, [H, W, C]; zero beyond the border."""
    import cv2

    found = cv2.filter2D(x, -1, _KERNEL, borderType=cv2.BORDER_CONSTANT)
    return np.asarray(found.reshape(x.shape), np.float32)


BLUR = Imputation(
    "blur",
    "the image blurred as in RISE's insertion",
    lambda image: replacing(image, blurred(image)),
)
MEAN = Imputation("mean", "the image's mean colour", lambda image: replacing(image, _mean(image)))
NOISE = Imputation(
    "noise",
    "the image's mean colour plus white noise with each channel's standard deviation",
    lambda image: replacing(image, _noise(image)),
)
BORDER = Imputation(
    "border",
    "the mean colour of the image's border pixels",
    lambda image: replacing(image, _border(image)),
)
ZEROS = Imputation("zeros", "zeros in model space", lambda image: replacing(image, 0.0))
NOISY_LINEAR = Imputation(
    "noisy linear", "the weighted mean of their neighbours plus faint noise (ROAD)", _noisy_linear
)

IMPUTATIONS: tuple[Imputation, ...] = (BLUR, MEAN, NOISE, BORDER, ZEROS, NOISY_LINEAR)
"""All imputations."""


def imputation_named(name: str) -> Imputation:
    """Look up an imputation by name.

    Parameters
    ----------
    name
        One of "blur", "mean", "noise", "border", "zeros" and "noisy linear".

    Returns
    -------
    Imputation
        The imputation from `IMPUTATIONS`.

    Raises
    ------
    OptionError
        No imputation has this name.
    """
    for each in IMPUTATIONS:
        if each.name == name:
            return each
    names = ", ".join(f"'{each.name}'" for each in IMPUTATIONS)
    raise OptionError(f"unknown imputation {name!r}; choose one of: {names}")

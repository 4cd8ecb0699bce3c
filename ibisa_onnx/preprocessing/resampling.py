"""Resizing with antialiasing: each output pixel is a weighted mean of the input pixels it covers.

As in Pillow, and in torchvision for images, the kernel is stretched by the reduction factor.
OpenCV's bilinear resize is not antialiased (it skips pixels), and its area mode is a box filter;
most networks were trained with Pillow's. Rows and columns are resized one after the other, in
floats, as torch does for tensors. Pillow rounds and clips bytes in between and, from version 13
on, starts with either axis, so that no order matches it always; only `bicubic` and `lanczos`
differ, at hard edges.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float64]

_BLOCK = 1 << 16  # values that are summed at a time


@dataclass(frozen=True)
class Kernel:
    """A resampling kernel.

    Attributes
    ----------
    weight
        Its weight at a distance in pixels.
    support
        Distance at which it ends.
    antialias
        Whether it is stretched when an image is reduced.
    """

    weight: Callable[[Floats], Floats]
    support: float
    antialias: bool = True


def _box(x: Floats) -> Floats:
    return ((x > -0.5) & (x <= 0.5)).astype(np.float64)


def _triangle(x: Floats) -> Floats:
    weights: Floats = np.maximum(1 - np.abs(x), 0)
    return weights


def _cubic(x: Floats) -> Floats:
    """Keys' cubic convolution with a = -1/2."""
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def _lanczos(x: Floats) -> Floats:
    return np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0.0)


KERNELS: Mapping[str, Kernel] = MappingProxyType(
    {
        "nearest": Kernel(_box, 0.5, antialias=False),
        "box": Kernel(_box, 0.5),
        "bilinear": Kernel(_triangle, 1.0),
        "bicubic": Kernel(_cubic, 2.0),
        "lanczos": Kernel(_lanczos, 3.0),
    }
)


def resample(
    image: npt.NDArray[Any],
    size: tuple[int, int],
    kernel: Kernel = KERNELS["bilinear"],
    box: tuple[float, float, float, float] | None = None,
) -> npt.NDArray[np.float32]:
    """Resize a region of an image.

    Parameters
    ----------
    image
        [H, W] or [H, W, C], any real dtype.
    size
        Height and width of the result.
    kernel
        One of `KERNELS`.
    box
        The region: top, left, bottom, right in pixels of `image`; may be fractional, and may extend
        beyond the image, whose edge is then repeated. None: the whole image.

    Returns
    -------
    ndarray
        float32 [h, w] or [h, w, C], in the range of `image` (slightly beyond with `bicubic` and
        `lanczos`).
    """
    height, width = image.shape[:2]
    top, left, bottom, right = box or (0.0, 0.0, height, width)
    pixels, weights = _taps(width, size[1], left, right, kernel)
    first, last = pixels.min(), pixels.max()  # only these columns are needed
    part = np.ascontiguousarray(image[:, first : last + 1])  # else each tap would copy it
    rows = _along(part, 0, *_taps(height, size[0], top, bottom, kernel))
    return _along(rows, 1, pixels - first, weights)


def _taps(
    length: int, count: int, start: float, stop: float, kernel: Kernel
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float32]]:
    """Return the input pixels [count, taps] of each output pixel, and their weights."""
    step = (stop - start) / count
    centres = start + (np.arange(count) + 0.5) * step
    centres = np.clip(centres, 0, np.nextafter(length, 0))[:, None]
    stretch = max(step, 1.0) if kernel.antialias else 1.0
    reach = kernel.support * stretch
    first = np.floor(centres - reach + 0.5)
    pixels = first + np.arange(int(np.ceil(2 * reach)) + 1)
    weights = kernel.weight((pixels + 0.5 - centres) / stretch)
    weights = np.where((pixels >= 0) & (pixels < length), weights, 0.0)
    used = weights.any(axis=0)  # often not the last: most kernels end in 0
    pixels, weights = pixels[:, used], weights[:, used]
    weights /= weights.sum(axis=1, keepdims=True)
    return np.clip(pixels, 0, length - 1).astype(np.intp), weights.astype(np.float32)


def _along(
    image: npt.NDArray[Any],
    axis: int,
    pixels: npt.NDArray[np.intp],
    weights: npt.NDArray[np.float32],
) -> npt.NDArray[np.float32]:
    """Sum weighted pixels along one axis, in blocks of output rows that fit into the cache."""
    shape = list(image.shape)
    shape[axis] = len(pixels)
    total = np.empty(shape, np.float32)
    rows = max(1, _BLOCK * shape[0] // max(total.size, 1))
    for start in range(0, shape[0], rows):
        block = slice(start, start + rows)
        if axis == 0:
            _sum_taps(image, 0, pixels[block], weights[block], total[block])
        else:
            _sum_taps(image[block], 1, pixels, weights, total[block])
    return total


def _sum_taps(
    image: npt.NDArray[Any],
    axis: int,
    pixels: npt.NDArray[np.intp],
    weights: npt.NDArray[np.float32],
    out: npt.NDArray[np.float32],
) -> None:
    """Sum weighted pixels along one axis into `out`, one tap at a time."""
    shape = [1] * image.ndim
    shape[axis] = len(pixels)
    # Nothing is out of range; within rows "clip" is faster.
    mode: Literal["clip", "raise"] = "clip" if axis else "raise"
    for tap in range(pixels.shape[1]):
        values = image.take(pixels[:, tap], axis=axis, mode=mode)
        part = values * weights[:, tap].reshape(shape)
        if tap:
            np.add(out, part, out)
        else:
            out[...] = part

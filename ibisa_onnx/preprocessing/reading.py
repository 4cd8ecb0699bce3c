"""Reads images for a model; very large ones no larger than the model's input requires."""

from __future__ import annotations

from ibisa_onnx.io.images import Picture, Source, read_picture
from ibisa_onnx.limits import Limits
from ibisa_onnx.preprocessing.resampling import KERNELS
from ibisa_onnx.preprocessing.spec import Preprocessing, placement

REDUCED_ABOVE = 1 << 25
"""Images of at most this many pixels, 33.5 million, are never reduced."""
SPARE = 4
"""Pixels of a reduced image per pixel of the model's input, vertically and horizontally."""
_FACTORS = (8, 4, 2)


def read_for(source: Source, spec: Preprocessing, limits: Limits | None = None) -> Picture:
    """Read an image for a model, reduced if it is very large and the model's input small.

    Parameters
    ----------
    source
        As for `read_picture`.
    spec
        The model's preprocessing.
    limits
        As for `read_picture`.

    Returns
    -------
    Picture
        Its sides divided by 2, 4 or 8 if it has more than `REDUCED_ABOVE` pixels and retains
        `SPARE` of them per pixel of the model's input; `notes` report that.

    Raises
    ------
    ImageError
        As `read_picture`, or the image has the wrong size while resizing is off.
    """
    return read_picture(source, limits, lambda size: reduction_for(size, spec))


def reduction_for(size: tuple[int, int], spec: Preprocessing) -> int:
    """Return the factor by which an image of some height and width is reduced: 1, 2, 4 or 8."""
    resized = placement(size, spec).resized
    # Without antialiasing, other pixels would be sampled.
    if size[0] * size[1] <= REDUCED_ABOVE or not KERNELS[spec.interpolation].antialias:
        return 1
    room = min(side / (SPARE * wanted) for side, wanted in zip(size, resized, strict=True))
    return next((factor for factor in _FACTORS if factor <= room), 1)

"""Pictures read for a model: a very large one no larger than the model's input needs."""

from __future__ import annotations

from ibisa_onnx.io.images import Picture, Source, read_picture
from ibisa_onnx.limits import Limits
from ibisa_onnx.preprocessing.resampling import KERNELS
from ibisa_onnx.preprocessing.spec import Preprocessing, placement

REDUCED_ABOVE = 1 << 25
"""Pixels of a picture that is read as it is: 33.5 million, more than most cameras take."""
SPARE = 4
"""Pixels that are kept for each of the model's input, down and across, where one is reduced."""
_FACTORS = (8, 4, 2)


def read_for(source: Source, spec: Preprocessing, limits: Limits | None = None) -> Picture:
    """Read a picture for a model, reduced where it is very large and the model's input is small.

    Parameters
    ----------
    source, limits
        As of `read_picture`.
    spec
        How it is brought to the model.

    Returns
    -------
    Picture
        Of both sides a half, a quarter or an eighth, where it has more than `REDUCED_ABOVE` pixels
        and keeps `SPARE` of them for each of the model's input; `notes` say so.

    Raises
    ------
    ImageError
        As `read_picture`, or it does not fit where it must not be resized.
    """
    return read_picture(source, limits, lambda size: reduction_for(size, spec))


def reduction_for(size: tuple[int, int], spec: Preprocessing) -> int:
    """Return by what a picture of some height and width is reduced: 1, 2, 4 or 8."""
    resized = placement(size, spec).resized
    # Where single pixels are picked, others would be.
    if size[0] * size[1] <= REDUCED_ABOVE or not KERNELS[spec.interpolation].antialias:
        return 1
    room = min(side / (SPARE * wanted) for side, wanted in zip(size, resized, strict=True))
    return next((factor for factor in _FACTORS if factor <= room), 1)

"""Regions: places of a grid, and what a user marks in a picture, as masks."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from ibisa_onnx.errors import TargetError
from ibisa_onnx.io.images import read_picture
from ibisa_onnx.targets.boxes import Box

Mask = npt.NDArray[np.bool_]
RegionLike = npt.NDArray[Any] | str | os.PathLike[str] | Box
"""A mask [H, W] of the picture, the path of one, or left, top, right, bottom in its pixels."""


@dataclass(frozen=True)
class Region:
    """Places of a grid.

    Attributes
    ----------
    grid
        Its rows and columns.
    packed
        Which places, a bit each, row by row.
    """

    grid: tuple[int, int]
    packed: bytes = field(repr=False)

    @classmethod
    def of(cls, mask: Mask) -> Region:
        """Return the region of a mask [h, w]."""
        high, wide = mask.shape
        return cls((high, wide), np.packbits(mask).tobytes())

    @cached_property
    def mask(self) -> Mask:
        """Which places, bool [h, w]."""
        bits = np.unpackbits(np.frombuffer(self.packed, np.uint8), count=math.prod(self.grid))
        return bits.astype(bool).reshape(self.grid)

    @cached_property
    def cells(self) -> npt.NDArray[np.intp]:
        """The numbers of its places, row by row."""
        return np.flatnonzero(self.mask)

    @property
    def share(self) -> float:
        """Its share of the grid, in 0..1."""
        return len(self.cells) / math.prod(self.grid)


def region_mask(region: RegionLike, picture: tuple[int, int]) -> Mask:
    """Return a region as a user gives it as a mask of the picture.

    Parameters
    ----------
    region
        As of `RegionTarget`.
    picture
        Height and width of the picture.

    Returns
    -------
    ndarray
        bool [H, W].

    Raises
    ------
    TargetError
        It is empty, of another size, or no region.
    ImageError
        The mask picture cannot be read.
    """
    height, width = picture
    if isinstance(region, str | os.PathLike):
        mask, what = _read_mask(region), str(region)
    else:
        values, what = np.asarray(region), "region"
        if values.ndim == 1:
            return _box_mask(values, picture)
        if values.ndim not in (2, 3) or values.dtype.kind not in "buif":
            raise TargetError(
                f"region is {values.dtype} {list(values.shape)}; give a mask [H, W] of the "
                "picture, the path of one, or left, top, right, bottom"
            )
        mask = (values != 0).any(2) if values.ndim == 3 else values != 0
    if mask.shape != picture:
        raise TargetError(
            f"{what} is {mask.shape[1]} x {mask.shape[0]} and the picture {width} x {height}; "
            "give a mask of its size"
        )
    if not mask.any():
        raise TargetError(f"{what} is empty; mark the region with anything but black")
    return np.asarray(mask)


def _read_mask(path: str | os.PathLike[str]) -> Mask:
    """Read a mask picture: inside is what is not black, and not transparent."""
    picture = read_picture(path)
    values = picture.pixels if picture.deep is None else picture.deep.values
    mask = (values[..., :3] != 0).any(2)
    if values.shape[2] == 4:
        mask &= values[..., 3] > 0
    return np.asarray(mask)


def _box_mask(box: npt.NDArray[Any], picture: tuple[int, int]) -> Mask:
    """Return the mask of the pixels that a box touches."""
    height, width = picture
    if len(box) != 4 or box.dtype.kind not in "uif" or not np.isfinite(box).all():
        raise TargetError(f"region is {box.tolist()}; give left, top, right, bottom in pixels")
    left, top, right, bottom = (float(side) for side in box)
    shown = ",".join(f"{side:g}" for side in (left, top, right, bottom))
    if not (left < right and top < bottom):
        raise TargetError(f"region {shown} is empty; give left, top, right, bottom in pixels")
    if right <= 0 or bottom <= 0 or left >= width or top >= height:
        raise TargetError(f"region {shown} is outside the picture, which is {width} x {height}")
    mask = np.zeros(picture, bool)
    rows = slice(max(0, math.floor(top)), math.ceil(bottom))
    mask[rows, max(0, math.floor(left)) : math.ceil(right)] = True
    return mask

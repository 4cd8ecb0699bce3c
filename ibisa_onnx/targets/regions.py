"""Regions: places of a grid, the probability of a class over them, and what a user marks as masks.

A region is explained by its cross-entropy: the mean logarithm of its class's probability over the
places that it takes up on the untouched picture, which segmenters are trained by. The mean of the
probabilities themselves makes far worse maps, for of a region that is lost only the places that are
nearly kept have a gradient by it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Hashable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ibisa_onnx.errors import AbsentTargetError, TargetError
from ibisa_onnx.io.images import read_picture
from ibisa_onnx.models.head import Head
from ibisa_onnx.targets.base import Box, Doubles, Objective, Raw
from ibisa_onnx.targets.score_maps import ScoreMaps

if TYPE_CHECKING:
    import onnx

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
    def around(self) -> Box:
        """The box around it, in 0..1 of the grid's sides."""
        (top, bottom), (left, right) = (
            (float(places.min()) / side, float(places.max() + 1) / side)
            for places, side in zip(np.nonzero(self.mask), self.grid, strict=True)
        )
        return left, top, right, bottom

    @property
    def share(self) -> float:
        """Its share of the grid, in 0..1."""
        return len(self.cells) / math.prod(self.grid)


@dataclass(frozen=True)
class RegionObjective(Objective):
    """The probability of a class over a region: the geometric mean of its places.

    Attributes
    ----------
    maps
        The scores, and how they are read.
    column, label
        The class, and what it is called.
    region
        The places of the scores' grid that count.
    box
        Left, top, right, bottom around the region in the picture's pixels; None: not known.
    area
        The region's share of the picture, in 0..1; None: not known.
    notes
        What a user must know of how the class was read.
    """

    maps: ScoreMaps
    column: int
    region: Region
    label: str | None = None
    box: Box | None = None
    area: float | None = None
    notes: tuple[str, ...] = ()

    @property
    def outputs(self) -> tuple[str, ...]:
        """The tensor of scores."""
        return (self.maps.name,)

    @property
    def family(self) -> Hashable:
        """How the scores are read: one gradient serves all regions."""
        return type(self), self.maps

    @property
    def baselines(self) -> tuple[str, ...]:
        """What is filled in from around first: it hides an object and leaves where it was.

        On ten pictures that beat the blur in insertion less deletion by all three of blur, mean
        and noise, and brought more of the map into the region.
        """
        return "inpaint", "blur", "mean"

    @property
    def location(self) -> Box:
        """The box around the region."""
        return self.region.around

    @property
    def extent(self) -> float:
        """The region's share of the model's input."""
        return self.region.share

    def score(self, raw: Raw) -> Doubles:
        """Return the mean logarithm of the probability over the region, [N] in nats."""
        scores = self.maps.scores(raw[self.maps.name], self.region.cells)
        return np.asarray(self.maps.log_probabilities(scores, self.column).mean(1))

    def vjp(self, raw: Raw) -> dict[str, npt.NDArray[np.float32]]:
        """Return its derivative by the scores: 0 outside the region."""
        values, cells = raw[self.maps.name], self.region.cells
        slope = self.maps.log_derivative(self.maps.scores(values, cells), self.column)
        slope /= len(cells)
        return {self.maps.name: self.maps.cotangent(values, cells, slope)}

    def warnings(self, raw: Raw) -> tuple[str, ...]:
        """Say how the class was read, where that is a guess."""
        return self.notes

    def to_onnx(self, graph: onnx.GraphProto) -> str:
        """Write the score as nodes behind the tensor of scores."""
        return self.maps.write(Head(graph), self.region.cells, self.column)

    def describe(self) -> dict[str, Any]:
        """Return the class, and where and how large its region is."""
        name = self.label or f"class {self.column}"
        size = "" if self.area is None else f", {percent(self.area)} of the picture"
        return {
            "kind": "region",
            "caption": f"{name}{size}",
            "output": self.maps.name,
            "index": self.column,
            "label": self.label,
            "activation": str(self.maps.activation),
            "box": self.box and [round(side, 1) for side in self.box],
            "area": None if self.area is None else round(self.area, 4),
        }


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
        raise AbsentTargetError(
            f"{what} is {mask.shape[1]} x {mask.shape[0]}, but the picture is {width} x {height}; "
            "give a mask of the picture's size"
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


def beyond_picture(region: RegionLike, picture: tuple[int, int]) -> tuple[str, ...]:
    """Say where a box, as `region_mask` takes it, reaches beyond the picture."""
    if isinstance(region, str | os.PathLike) or np.ndim(region) != 1:
        return ()
    (height, width), (left, top, right, bottom) = picture, (float(side) for side in region)
    if left >= 0 and top >= 0 and right <= width and bottom <= height:
        return ()
    shown = ",".join(f"{side:g}" for side in (left, top, right, bottom))
    return (
        f"region {shown} reaches beyond the picture, which is {width} x {height}; the part inside "
        "is explained",
    )


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
        raise AbsentTargetError(
            f"region {shown} is outside the picture, which is {width} x {height}"
        )
    mask = np.zeros(picture, bool)
    rows = slice(max(0, math.floor(top)), math.ceil(bottom))
    mask[rows, max(0, math.floor(left)) : math.ceil(right)] = True
    return mask


def percent(share: float) -> str:
    """Return a share as people read it: 21%, or of less than a hundredth 0.4%."""
    return f"{share:.0%}" if share >= 0.01 else f"{100 * share:.1g}%"

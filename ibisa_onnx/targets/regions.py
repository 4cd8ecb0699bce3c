"""Regions of a segmenter: cells of a grid, the objective over them, and masks given by callers.

A region is explained by its cross-entropy, the mean log-probability of its class over the cells
that it occupies in the unmasked image, which segmenters are trained with. The mean probability
makes far worse maps: once a region is lost, only cells that are nearly preserved have a gradient.
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
"""Mask [H, W] of the image, path of a mask image, or left, top, right, bottom in pixels."""


@dataclass(frozen=True)
class Region:
    """Set of cells of a grid.

    Attributes
    ----------
    grid
        Rows and columns of the grid.
    packed
        The cells as a bitmap, row by row.
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
        """The cells as a mask, bool [h, w]."""
        bits = np.unpackbits(np.frombuffer(self.packed, np.uint8), count=math.prod(self.grid))
        return bits.astype(bool).reshape(self.grid)

    @cached_property
    def cells(self) -> npt.NDArray[np.intp]:
        """Flat indices of the cells, row by row."""
        return np.flatnonzero(self.mask)

    @property
    def around(self) -> Box:
        """Bounding box as fractions 0..1 of the grid."""
        (top, bottom), (left, right) = (
            (float(places.min()) / side, float(places.max() + 1) / side)
            for places, side in zip(np.nonzero(self.mask), self.grid, strict=True)
        )
        return left, top, right, bottom

    @property
    def share(self) -> float:
        """Fraction of the grid covered, 0..1."""
        return len(self.cells) / math.prod(self.grid)


@dataclass(frozen=True)
class RegionObjective(Objective):
    """Log-probability of a class over a region: the mean over its cells.

    Attributes
    ----------
    maps
        The score maps, and how they are read.
    column, label
        Class index and class name.
    region
        The cells over which the score is averaged.
    box
        Left, top, right, bottom of the region, in pixels of the original image; None if unknown.
    area
        Fraction of the original image covered by the region, 0..1; None if unknown.
    notes
        Warnings about how the class was read.
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
        """Key of the score maps: one gradient serves all regions."""
        return type(self), self.maps

    @property
    def baselines(self) -> tuple[str, ...]:
        """Baselines for `auto`: inpainting first, which hides an object but not its surroundings.

        On ten images it outperforms the blur in insertion minus deletion under blur, mean and
        noise, and concentrates the map more in the region.
        """
        return "inpaint", "blur", "mean"

    @property
    def location(self) -> Box:
        """Bounding box of the region."""
        return self.region.around

    @property
    def extent(self) -> float:
        """Fraction of the model input covered by the region."""
        return self.region.share

    def score(self, raw: Raw) -> Doubles:
        """Return the mean log-probability over the region, float64 [N] in nats."""
        scores = self.maps.scores(raw[self.maps.name], self.region.cells)
        return np.asarray(self.maps.log_probabilities(scores, self.column).mean(1))

    def vjp(self, raw: Raw) -> dict[str, npt.NDArray[np.float32]]:
        """Return its gradient with respect to the scores: 0 outside the region."""
        values, cells = raw[self.maps.name], self.region.cells
        slope = self.maps.log_derivative(self.maps.scores(values, cells), self.column)
        slope /= len(cells)
        return {self.maps.name: self.maps.cotangent(values, cells, slope)}

    def warnings(self, raw: Raw) -> tuple[str, ...]:
        """Return the warnings about how the class was read."""
        return self.notes

    def to_onnx(self, graph: onnx.GraphProto) -> str:
        """Append nodes that compute the score."""
        return self.maps.write(Head(graph), self.region.cells, self.column)

    def describe(self) -> dict[str, Any]:
        """Return the class, and the region's location and size."""
        name = self.label or f"class {self.column}"
        size = "" if self.area is None else f", {percent(self.area)} of the image"
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
    """Convert a region as callers pass it to a mask of the image.

    Parameters
    ----------
    region
        As in `RegionTarget`.
    picture
        Height and width of the original image.

    Returns
    -------
    ndarray
        bool [H, W].

    Raises
    ------
    TargetError
        The region is empty, of another size, or invalid.
    ImageError
        The mask image cannot be read.
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
                f"region is {values.dtype} {list(values.shape)}; pass a mask [H, W] of the image, "
                "the path of a mask image, or left, top, right, bottom"
            )
        mask = (values != 0).any(2) if values.ndim == 3 else values != 0
    if mask.shape != picture:
        raise AbsentTargetError(
            f"{what} is {mask.shape[1]} x {mask.shape[0]}, but the image is {width} x {height}; "
            "pass a mask of the image's size"
        )
    if not mask.any():
        raise TargetError(f"{what} is empty; mark the region in any colour but black")
    return np.asarray(mask)


def _read_mask(path: str | os.PathLike[str]) -> Mask:
    """Read a mask image: pixels that are neither black nor transparent are inside."""
    picture = read_picture(path)
    values = picture.pixels if picture.deep is None else picture.deep.values
    mask = (values[..., :3] != 0).any(2)
    if values.shape[2] == 4:
        mask &= values[..., 3] > 0
    return np.asarray(mask)


def beyond_picture(region: RegionLike, picture: tuple[int, int]) -> tuple[str, ...]:
    """Return a warning if a box, as in `region_mask`, extends beyond the image."""
    if isinstance(region, str | os.PathLike) or np.ndim(region) != 1:
        return ()
    (height, width), (left, top, right, bottom) = picture, (float(side) for side in region)
    if left >= 0 and top >= 0 and right <= width and bottom <= height:
        return ()
    shown = ",".join(f"{side:g}" for side in (left, top, right, bottom))
    return (
        f"region {shown} extends beyond the image, which is {width} x {height} pixels; only the "
        "part inside is explained",
    )


def _box_mask(box: npt.NDArray[Any], picture: tuple[int, int]) -> Mask:
    """Return the mask of the pixels that a box touches."""
    height, width = picture
    if len(box) != 4 or box.dtype.kind not in "uif" or not np.isfinite(box).all():
        raise TargetError(f"region is {box.tolist()}; pass left, top, right, bottom in pixels")
    left, top, right, bottom = (float(side) for side in box)
    shown = ",".join(f"{side:g}" for side in (left, top, right, bottom))
    if not (left < right and top < bottom):
        raise TargetError(f"region {shown} is empty; pass left, top, right, bottom in pixels")
    if right <= 0 or bottom <= 0 or left >= width or top >= height:
        raise AbsentTargetError(
            f"region {shown} is outside the image, which is {width} x {height} pixels"
        )
    mask = np.zeros(picture, bool)
    rows = slice(max(0, math.floor(top)), math.ceil(bottom))
    mask[rows, max(0, math.floor(left)) : math.ceil(right)] = True
    return mask


def percent(share: float) -> str:
    """Format a fraction for people: 21%, or 0.4% if below one percent."""
    return f"{share:.0%}" if share >= 0.01 else f"{100 * share:.1g}%"

"""Regions of an image: a user's boxes, and the target's own box or region."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ibisa_onnx.errors import MetricError
from ibisa_onnx.methods.problem import Problem
from ibisa_onnx.metrics import box_region
from ibisa_onnx.metrics.maps import Region, checked_region
from ibisa_onnx.pipeline import explained_target
from ibisa_onnx.targets.contrast import ContrastObjective
from ibisa_onnx.targets.regions import RegionObjective

_HALF = 0.5  # fraction of a pixel from which it belongs to a region

Box = tuple[float, float, float, float]
"""Left, top, right and bottom in pixels of the image, right and bottom excluded."""


@dataclass(frozen=True, eq=False)
class PictureRegion:
    """A region of an image, bool [H, W], and its name in messages."""

    name: str
    pixels: Region


def box_of_picture(box: Box, picture: tuple[int, int]) -> PictureRegion:
    """Return a box of an image of (H, W) as a region.

    Raises
    ------
    MetricError
        The box is inverted, extends beyond the image, or covers all of it.
    """
    left, top, right, bottom = box
    height, width = picture
    if min(left, top) < 0 or right > width or bottom > height:
        raise MetricError(
            f"the box {box} extends beyond the image, which is {width}x{height} (width x height); "
            "pass coordinates within it"
        )
    name = f"box {','.join(f'{side:g}' for side in box)}"
    return PictureRegion(name, checked_region(box_region(box, picture), picture))


def own_region(problem: Problem) -> PictureRegion | None:
    """Return the target's own region: a segmenter's region, or a detector's box.

    None if it has none, or if the region lies outside the model's input or covers all of it.
    """
    row = problem.row
    objective = row.objective
    if isinstance(objective, ContrastObjective):
        objective = objective.first
    if isinstance(objective, RegionObjective):
        region = PictureRegion("its region", _pixels_of(objective, problem))
    elif (box := explained_target(row).box) is None:
        return None
    else:
        try:
            region = PictureRegion("its box", box_region(box, row.geometry.picture))
        except MetricError:  # smaller than a pixel
            return None
    seen = seen_of(region, problem)
    return region if seen.any() and not seen.all() else None


def _pixels_of(objective: RegionObjective, problem: Problem) -> Region:
    """Return the pixels of the image that a region's cells cover, [H, W]."""
    geometry, mask = problem.row.geometry, objective.region.mask
    rows, columns = (
        ((np.arange(size) + 0.5) * cells / size).astype(np.intp)
        for size, cells in zip(geometry.model, mask.shape, strict=True)
    )
    return geometry.whole.restore(mask[np.ix_(rows, columns)].astype(np.float32)) > _HALF


def seen_of(region: PictureRegion, problem: Problem) -> Region:
    """Return a region at the size of the model's input, [h, w]."""
    return problem.row.geometry.project(region.pixels.astype(np.float32)) > _HALF

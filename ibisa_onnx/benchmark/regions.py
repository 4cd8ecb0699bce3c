"""Parts of a picture: boxes that a user gives, and the one that an answer itself is about."""

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

_HALF = 0.5  # of a pixel, where it belongs to a region

Box = tuple[float, float, float, float]
"""Left, top, right and bottom in pixels of the picture, the last two not included."""


@dataclass(frozen=True, eq=False)
class PictureRegion:
    """A part of a picture, bool [H, W], and what to call it."""

    name: str
    pixels: Region


def box_of_picture(box: Box, picture: tuple[int, int]) -> PictureRegion:
    """Return the pixels of a box of a picture of (H, W).

    Raises
    ------
    MetricError
        It is turned around, reaches beyond the picture, or is all of it.
    """
    left, top, right, bottom = box
    height, width = picture
    if min(left, top) < 0 or right > width or bottom > height:
        raise MetricError(
            f"the box {box} reaches beyond the picture, which is {width} x {height} (width x "
            "height); give pixels of the picture"
        )
    name = f"box {','.join(f'{side:g}' for side in box)}"
    return PictureRegion(name, checked_region(box_region(box, picture), picture))


def own_region(problem: Problem) -> PictureRegion | None:
    """Return the part of the picture that an answer is about: a segmenter's region, or its box.

    None where it has none, where the model sees none of it, and where it sees nothing else.
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
    """Return the pixels of the picture that a region's places cover, [H, W]."""
    geometry, mask = problem.row.geometry, objective.region.mask
    rows, columns = (
        ((np.arange(size) + 0.5) * cells / size).astype(np.intp)
        for size, cells in zip(geometry.model, mask.shape, strict=True)
    )
    return geometry.whole.restore(mask[np.ix_(rows, columns)].astype(np.float32)) > _HALF


def seen_of(region: PictureRegion, problem: Problem) -> Region:
    """Return what the model sees of a region, [h, w]."""
    return problem.row.geometry.project(region.pixels.astype(np.float32)) > _HALF

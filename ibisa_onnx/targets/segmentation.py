"""Segmenters and heat maps: a class per position of the image, and the regions of the classes.

`regions` defines the objective of a region, `segmented_picture` the segmentation of one image, and
`map_search` recognises segmenters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ibisa_onnx.errors import AbsentTargetError, TargetError
from ibisa_onnx.targets.base import (
    Answer,
    Context,
    Kind,
    Objective,
    Raw,
    Reader,
    TargetSpec,
    wrong_kind,
)
from ibisa_onnx.targets.map_search import find_maps
from ibisa_onnx.targets.regions import RegionLike, beyond_picture, region_mask
from ibisa_onnx.targets.score_maps import ScoreMaps
from ibisa_onnx.targets.segmented_picture import Segmentation
from ibisa_onnx.targets.window import Point

if TYPE_CHECKING:
    from ibisa_onnx.targets.facts import ModelFacts

NAME = "segmenter"


@dataclass(frozen=True, eq=False)
class RegionTarget:
    """Target a region of a segmenter: a class, a point, or an area of the image.

    Without any argument, the target is the largest region of a class other than the background.

    Attributes
    ----------
    label
        Class, by name or index; None for the class at the point, or the most frequent class in the
        region. On its own, the target is all of the image that the model assigns to that class.
    at
        A point, x and y in pixels of the original image: the connected region of its class around
        it. Cannot be combined with `region`.
    region
        Area in which to explain the class: a mask [H, W] of the original image (non-zero is
        inside), the path of a mask image (non-black is inside), or left, top, right, bottom in
        pixels. Within it, the positions count that the model assigns to the class; if there are
        none, all count, and a warning says so.

    Raises
    ------
    TargetError
        When bound: there is no such class or region in the image, or `at` and `region` are both
        given.
    ImageError
        When bound: the mask image cannot be read.

    Examples
    --------
    >>> RegionTarget("dog").label
    'dog'
    """

    label: str | int | None = None
    at: Point | None = None
    region: RegionLike | None = None

    def outputs(self, reader: Reader) -> tuple[str, ...]:
        """Return the name of the tensor of scores."""
        return _segmenter_of(reader).outputs()

    def bind(self, raw: Raw, context: Context) -> list[Objective]:
        """Return the objective for one image, as a list of one.

        Raises
        ------
        TargetError
            There is no such class or region in this image.
        ImageError
            The mask image cannot be read.
        """
        if self.at is not None and self.region is not None:
            raise TargetError("at and region are mutually exclusive; pass one of them")
        shown = _segmenter_of(context.reader).read(raw, context)
        column = None if self.label is None else shown.column(self.label)
        notes: tuple[str, ...] = ()
        if self.region is not None:
            picture = context.geometry.picture
            region = shown.projected(region_mask(self.region, picture))
            column = shown.most_given(region) if column is None else column
            mask, notes = shown.within(region, column)
            notes = (*beyond_picture(self.region, picture), *notes)
        elif self.at is not None:
            column, mask = shown.around(self.at, column)
        else:
            column = shown.largest() if column is None else column
            mask = shown.given(column)
            if not mask.any():
                raise AbsentTargetError(
                    f"there is no {shown.name(column)} in this image; {shown.summary()}"
                )
        return [shown.objective(column, mask, *notes)]


class SegmenterKind(Kind):
    """Segmenter: a model that assigns a class to each position of the image.

    Parameters
    ----------
    maps
        The score maps, and how they are read.
    reason
        How they were recognised.
    warnings
        Warnings about what is assumed.
    """

    name = NAME
    family = "segmenters"
    asks = (
        *("target=CLASS", "PointTarget((120, 80))", "RegionTarget(region=MASK)"),
        "ContrastTarget(CLASS, CLASS)",
    )
    preprocessing: Mapping[str, Any] = {"resize": "stretch"}

    def __init__(self, maps: ScoreMaps, reason: str, warnings: tuple[str, ...] = ()) -> None:
        self.maps, self.reason, self.warnings = maps, reason, warnings

    def outputs(self) -> tuple[str, ...]:
        """Return the name of the tensor of scores."""
        return (self.maps.name,)

    def target(self, wanted: str | int | None) -> TargetSpec:
        """Return the target of a class, by name or index; None for the largest region."""
        if isinstance(wanted, str) and wanted.lower().startswith("top:"):
            raise TargetError(
                f"target {wanted} stands for the most likely classes, but a segmenter predicts "
                "regions; pass one class"
            )
        return RegionTarget(wanted)

    def at(self, point: Point, wanted: str | int | None = None) -> TargetSpec:
        """Return the target of the connected region around a point, optionally of one class."""
        return RegionTarget(wanted, at=point)

    def over(self, region: RegionLike, wanted: str | int | None = None) -> TargetSpec:
        """Return the target of a class over a region; None for the most frequent class there."""
        return RegionTarget(wanted, region=region)

    def answers(self, raw: Raw, context: Context) -> list[Answer]:
        """Return the classes in the image, largest area first."""
        return list(self.read(raw, context).answers())

    def read(self, raw: Raw, context: Context) -> Segmentation:
        """Return the segmentation of one image."""
        return Segmentation(self.maps, raw[self.maps.name], context)


def find(facts: ModelFacts, *, said: bool = False) -> SegmenterKind | None:
    """Recognise a segmenter by a tensor with a score per class and position.

    If the caller `said` that it is one, a matching shape suffices.
    """
    found = find_maps(facts, said=said)
    if found is None:
        return None
    maps, warnings = found
    return SegmenterKind(maps.maps, maps.reason, warnings)


def _segmenter_of(reader: Reader) -> SegmenterKind:
    kind = reader.kind
    if not isinstance(kind, SegmenterKind):
        raise wrong_kind(kind, "regions")
    return kind

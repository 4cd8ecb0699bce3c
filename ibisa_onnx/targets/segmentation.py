"""Segmenters and heat maps: a class for each place of a picture, and the regions of the classes.

What is kept of a region is in `regions`, and what a segmenter says of a picture in
`segmented_picture`. How a model is told to be a segmenter is in `map_search`.
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
    """A class over a region, as a user points at it.

    Without any argument it is the largest region of a class that is not the background.

    Attributes
    ----------
    label
        The class, by name or index; None: the one at the point, or most given in the region.
        Alone it means all places that the model gives that class.
    at
        A point, x and y in the picture's pixels: the connected region of its class around it.
    region
        Where the class is meant: a mask [H, W] of the picture (not 0 is inside), the path of a mask
        picture (not black is inside), or left, top, right, bottom in the picture's pixels. Of all
        three alike those places count that the model gives that class, or all where it gives it to
        none; a warning says so.
    """

    label: str | int | None = None
    at: Point | None = None
    region: RegionLike | None = None

    def outputs(self, reader: Reader) -> tuple[str, ...]:
        """Name the tensor of scores."""
        return _segmenter_of(reader).outputs()

    def bind(self, raw: Raw, context: Context) -> list[Objective]:
        """Return the region of one picture.

        Raises
        ------
        TargetError
            There is no such class or region in this picture.
        ImageError
            The mask cannot be read.
        """
        if self.at is not None and self.region is not None:
            raise TargetError("at and region are both given; give one of them")
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
                    f"there is no {shown.name(column)} in this picture; {shown.summary()}"
                )
        return [shown.objective(column, mask, *notes)]


class SegmenterKind(Kind):
    """A model that gives each place of a picture a class.

    Parameters
    ----------
    maps
        Its scores, and how they are read.
    reason
        How that is known.
    warnings
        What of it is a guess.
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
        """Name the tensor of scores."""
        return (self.maps.name,)

    def target(self, wanted: str | int | None) -> TargetSpec:
        """Return all places of a class, by name or index; None: the largest region."""
        if isinstance(wanted, str) and wanted.lower().startswith("top:"):
            raise TargetError(
                f"target {wanted} asks for the likeliest classes, and a segmenter gives regions; "
                "give one class"
            )
        return RegionTarget(wanted)

    def at(self, point: Point, wanted: str | int | None = None) -> TargetSpec:
        """Return the connected region around a point, of a class where one is named."""
        return RegionTarget(wanted, at=point)

    def over(self, region: RegionLike, wanted: str | int | None = None) -> TargetSpec:
        """Return a class over a region; None: the one that is most given there."""
        return RegionTarget(wanted, region=region)

    def answers(self, raw: Raw, context: Context) -> list[Answer]:
        """Return the classes that the picture has, the largest first."""
        return list(self.read(raw, context).answers())

    def read(self, raw: Raw, context: Context) -> Segmentation:
        """Return what it says of a picture."""
        return Segmentation(self.maps, raw[self.maps.name], context)


def find(facts: ModelFacts, *, said: bool = False) -> SegmenterKind | None:
    """Recognise a segmenter by a tensor that holds a score of each class for each place.

    Where the user has `said` that it is one, the shape of an output will do.
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

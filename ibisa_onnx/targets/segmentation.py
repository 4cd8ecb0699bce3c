"""Segmenters and heat maps: a class for each place of a picture, and the regions of the classes.

A region is explained by its cross-entropy: the mean logarithm of its class's probability over the
places that it takes up on the untouched picture, which segmenters are trained by. The mean of the
probabilities themselves makes far worse maps, for of a region that is lost only the places that are
nearly kept have a gradient by it. How a model is told to be a segmenter is in `map_search`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ibisa_onnx.errors import AbsentTargetError, TargetError
from ibisa_onnx.models.head import Head
from ibisa_onnx.preprocessing.resampling import KERNELS, resample
from ibisa_onnx.targets.base import (
    Answer,
    Context,
    Doubles,
    Kind,
    Objective,
    Raw,
    Reader,
    TargetSpec,
)
from ibisa_onnx.targets.boxes import Box
from ibisa_onnx.targets.detection import in_picture
from ibisa_onnx.targets.labels import find_label
from ibisa_onnx.targets.map_search import find_maps
from ibisa_onnx.targets.regions import Mask, Region, RegionLike, region_mask
from ibisa_onnx.targets.score_maps import ScoreMaps

if TYPE_CHECKING:
    import onnx

    from ibisa_onnx.targets.facts import ModelFacts

NAME = "segmenter"
FOREGROUND = "foreground"
"""What the class of a single map is called where nobody named it."""
HALF = 0.5
"""The probability above which a place is of a class that excludes no other."""
BACKGROUND = frozenset(
    {"background", "_background_", "__background__", "bg", "backgrounds", "unlabeled", "unlabelled"}
    | {"void", "none", "nothing", "other", "ignore"}
)
"""What labels call the places of nothing, in lower case."""
PASCAL_VOC = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat"),
    *("chair", "cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant"),
    *("sheep", "sofa", "train", "tvmonitor"),
)
"""The classes of Pascal VOC, in its order."""

_LEAST_THING = 0.1  # of a region: a class that has more of it is what the region is about
_NAMED = 6  # in an error

Place = tuple[float, float]


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
    def extent(self) -> float | None:
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
        size = "" if self.area is None else f", {_percent(self.area)} of the picture"
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
        picture (not black is inside), or left, top, right, bottom in the picture's pixels. Those of
        its places count that the model gives that class, or all where it gives it to none.
    """

    label: str | int | None = None
    at: Place | None = None
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
        if self.region is not None:
            mask = shown.projected(region_mask(self.region, context.geometry.picture))
            column = shown.most_given(mask) if column is None else column
            own = mask & shown.given(column)
            mask = own if own.any() else mask
        elif self.at is not None:
            column, mask = shown.around(self.at, column)
        else:
            column = shown.largest() if column is None else column
            mask = shown.given(column)
            if not mask.any():
                raise AbsentTargetError(f"there is no {shown.name(column)} here; {shown.summary()}")
        return [shown.objective(column, mask)]


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
    asks = ("-t CLASS", "--at 120,80", "--region MASK|L,T,R,B")
    preprocessing: Mapping[str, Any] = {"resize": "stretch"}

    def __init__(self, maps: ScoreMaps, reason: str, warnings: tuple[str, ...] = ()) -> None:
        self.maps, self.reason, self.warnings = maps, reason, warnings

    def outputs(self) -> tuple[str, ...]:
        """Name the tensor of scores."""
        return (self.maps.name,)

    def target(self, wanted: str | int | None) -> TargetSpec:
        """Return all places of a class, by name or index; None: the largest region."""
        return RegionTarget(wanted)

    def at(self, point: Place, wanted: str | int | None = None) -> TargetSpec:
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


class Segmentation:
    """What a segmenter says of one picture.

    Parameters
    ----------
    maps
        How the scores are read.
    values
        [1, ...], the scores.
    context
        The labels, and where the picture lies in the model's input.
    """

    def __init__(self, maps: ScoreMaps, values: npt.NDArray[Any], context: Context) -> None:
        self.maps, self._values, self._context = maps, values, context
        self.grid = maps.grid(values)

    # -- classes

    @cached_property
    def labels(self) -> tuple[str, ...] | None:
        """Names of the classes; None where nobody gave any."""
        if self.maps.classes == 1:
            return (_one_name(self._context.reader),)
        known = self._context.reader.labels_for(self.maps.classes)
        return PASCAL_VOC if known is None and self.maps.classes == len(PASCAL_VOC) else known

    @property
    def notes(self) -> tuple[str, ...]:
        """What of the reading is a guess on this picture."""
        notes = []
        if self.labels is PASCAL_VOC:
            notes.append(
                "nothing names the 21 classes, so they are called as in Pascal VOC (a guess): "
                "give labels= if that is wrong"
            )
        if self._threshold != HALF:
            notes.append(
                f"all of the picture has {FOREGROUND} above 50%, so its region is where it is "
                f"above {self._threshold:.0%}, the middle of its range"
            )
        return tuple(notes)

    def column(self, wanted: str | int) -> int:
        """Return the class that a word means.

        Raises
        ------
        TargetError
            There is none.
        """
        text, classes = str(wanted).strip(), self.maps.classes
        if re.fullmatch(r"[+-]?\d+", text):
            if not 0 <= int(text) < classes:
                many = f"classes are 0 to {classes - 1}" if classes > 1 else "the only class is 0"
                raise TargetError(f"class {text} is out of range: {many}")
            return int(text)
        if self.labels is None:
            raise TargetError(
                f"target {text!r} is a name, and the model's labels are not known; "
                "give labels=FILE, or a class index"
            )
        return find_label(self.labels, text)

    def name(self, column: int) -> str:
        """Return what a class is called."""
        return self.labels[column] if self.labels else f"class {column}"

    @cached_property
    def background(self) -> int | None:
        """The class of nothing; None where there is none.

        That is what labels say, or without any class 0, if it has most of the picture's border.
        """
        if self.maps.classes == 1:
            return None
        if self.labels is not None:
            names = (label.casefold().strip() for label in self.labels)
            return next((n for n, each in enumerate(names) if each in BACKGROUND), None)
        rows, columns = (np.flatnonzero(self._seen.any(axis)) for axis in (1, 0))
        shown = self._winners[np.ix_(rows, columns)]
        border = [shown[0], shown[-1], shown[:, 0], shown[:, -1]]
        counts = np.bincount(np.concatenate(border), minlength=self.maps.classes)
        return 0 if counts.argmax() == 0 else None

    # -- places

    def given(self, column: int) -> Mask:
        """Tell for each place that shows the picture whether it is given a class, [h, w]."""
        if self.maps.exclusive:
            return np.asarray((self._winners == column) & self._seen)
        return np.asarray((self._probability(column) > self._threshold) & self._seen)

    def largest(self) -> int:
        """Return the class with the most places, the background only where there is no other.

        Raises
        ------
        TargetError
            No place is given any class.
        """
        present = self._present
        if not present:
            raise AbsentTargetError(self.summary())
        return next((each for each in present if each != self.background), next(iter(present)))

    def most_given(self, mask: Mask) -> int:
        """Return the class that has most of a region; of the background's a thing's in it."""
        counts = {each: int((self.given(each) & mask).sum()) for each in self._present}
        counts = dict(sorted(counts.items(), key=lambda item: -item[1])) or {0: 0}
        least = _LEAST_THING * int(mask.sum())
        things = (each for each, n in counts.items() if each != self.background and n >= least)
        return next(things, next(iter(counts)))

    def around(self, at: Place, wanted: int | None) -> tuple[int, Mask]:
        """Return the class at a point of the picture, and its connected region around it.

        Raises
        ------
        TargetError
            The point lies outside, or is of no class, or of another than the one wanted.
        """
        import cv2

        row, column = self._cell(at)
        own = int(self._scores[:, row, column].argmax()) if wanted is None else wanted
        mask = self.given(own)
        if not mask[row, column]:
            what = self.name(own) if wanted is not None or self.maps.classes == 1 else "class"
            raise AbsentTargetError(f"there is no {what} at {at[0]:g},{at[1]:g}; {self.summary()}")
        _, parts = cv2.connectedComponents(mask.astype(np.uint8))
        return own, np.asarray(parts == parts[row, column])

    def projected(self, mask: Mask) -> Mask:
        """Return the places that a region of the picture covers: by half, or else at all.

        Parameters
        ----------
        mask
            bool [H, W] of the picture.

        Raises
        ------
        TargetError
            The model sees nothing of it.
        """
        geometry = self._context.geometry
        (top, left), (high, wide), (rows, columns) = geometry.offset, geometry.scale, geometry.model
        box = (-top / high, -left / wide, (rows - top) / high, (columns - left) / wide)
        covered = resample(mask.astype(np.float32), self.grid, KERNELS["box"], box) * self._seen
        for least in (0.5, 1e-6):
            found = np.asarray(covered >= least)
            if found.any():
                return found
        raise TargetError(
            "the region lies outside what the model sees of the picture; "
            "give another region, or resize=stretch"
        )

    def objective(self, column: int, mask: Mask) -> RegionObjective:
        """Return the objective of a class over places, bool [h, w]."""
        label = self.labels[column] if self.labels else None
        box, area = self._box(mask), self._area(mask)
        return RegionObjective(self.maps, column, Region.of(mask), label, box, area, self.notes)

    def answers(self) -> Iterator[Answer]:
        """Yield the classes that the picture has, the largest first."""
        for column, area in self._present.items():
            made = self.objective(column, self.given(column))
            score = float(made.probability({self.maps.name: self._values})[0])
            details = {"area": area}
            yield Answer(self.name(column), score, column, made.label, made.box, details)

    def summary(self) -> str:
        """Say what the picture has."""
        if not self._present:
            most = float(np.max(self._all_probabilities * self._seen))
            return f"nothing in the picture reaches {HALF:.0%}, the most is {most:.0%}"
        named = [f"{self.name(n)} {_percent(area)}" for n, area in self._present.items()]
        more = len(named) - _NAMED
        return f"there is: {', '.join(named[:_NAMED])}{f' and {more} more' if more > 0 else ''}"

    # -- what these are made of

    @cached_property
    def _scores(self) -> npt.NDArray[np.float32]:
        """All scores, [K, h, w]."""
        return np.asarray(self.maps.scores(self._values)[0].reshape(-1, *self.grid))

    @cached_property
    def _winners(self) -> npt.NDArray[np.intp]:
        """The class of the largest score, [h, w]."""
        return np.asarray(self._scores.argmax(0))

    @cached_property
    def _all_probabilities(self) -> npt.NDArray[np.float32]:
        """Probabilities of all classes, [K, h, w]."""
        flat = self.maps.probabilities(self.maps.scores(self._values))
        return np.asarray(flat[0].reshape(-1, *self.grid))

    def _probability(self, column: int) -> npt.NDArray[np.float32]:
        return np.asarray(self._all_probabilities[column])

    @cached_property
    def _threshold(self) -> float:
        """The probability above which a place is of a class that excludes no other.

        Maps of importance may have all of the picture above a half: then the middle of their range.
        """
        if self.maps.classes > 1:
            return HALF
        shown = self._probability(0)[self._seen]
        low, high = float(shown.min()), float(shown.max())
        return HALF if low <= HALF else (low + high) / 2

    @cached_property
    def _seen(self) -> Mask:
        """Tell for each place whether its middle shows the picture, [h, w]."""
        geometry, sides = self._context.geometry, []
        for axis in (0, 1):
            stride = geometry.model[axis] / self.grid[axis]
            middles = (np.arange(self.grid[axis]) + 0.5) * stride - geometry.offset[axis]
            middles /= geometry.scale[axis]
            sides.append((middles >= 0) & (middles <= geometry.picture[axis]))
        return np.asarray(sides[0][:, None] & sides[1])

    @cached_property
    def _present(self) -> dict[int, float]:
        """The share of the picture of each class that it has, the largest first."""
        columns: list[int] = list(range(self.maps.classes))
        if self.maps.exclusive:
            columns = [int(each) for each in np.unique(self._winners[self._seen])]
        areas = {each: self._area(self.given(each)) for each in columns}
        return {n: areas[n] for n in sorted(areas, key=lambda n: -areas[n]) if areas[n] > 0}

    def _area(self, mask: Mask) -> float:
        """Return the share of the picture that places take up."""
        seen = self._context.geometry.seen_share
        return float(mask.sum() / max(1, int(self._seen.sum()))) * min(1.0, seen)

    def _box(self, mask: Mask) -> Box:
        """Return left, top, right, bottom around places, in the picture's pixels."""
        rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
        sides = self._context.geometry.model
        down, across = (side / cells for side, cells in zip(sides, self.grid, strict=True))
        place = (columns[0] * across, rows[0] * down, (columns[-1] + 1) * across)
        return in_picture((*place, (rows[-1] + 1) * down), self._context.geometry)

    def _cell(self, at: Place) -> tuple[int, int]:
        """Return the row and column of the place at a point of the picture."""
        geometry, (height, width) = self._context.geometry, self._context.geometry.picture
        numbers = isinstance(at, tuple | list | np.ndarray) and len(at) == 2
        if not numbers or not all(isinstance(side, int | float | np.number) for side in at):
            raise TargetError(f"at is {at!r}; give x and y in the picture's pixels")
        x, y = (float(side) for side in at)
        if not (0 <= x <= width and 0 <= y <= height):
            raise AbsentTargetError(
                f"at {x:g},{y:g} is outside the picture, which is {width} x {height}"
            )
        found = []
        for value, axis in ((min(y + 0.5, height), 0), (min(x + 0.5, width), 1)):
            inside = geometry.offset[axis] + value * geometry.scale[axis]
            cell = math.floor(inside * self.grid[axis] / geometry.model[axis])
            if not 0 <= inside <= geometry.model[axis]:
                raise TargetError(
                    f"the model does not see {x:g},{y:g}: its preprocessing crops it away; "
                    "give resize=stretch to show it the whole picture"
                )
            found.append(min(cell, self.grid[axis] - 1))
        return found[0], found[1]


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
        raise TargetError(f"the model's kind is {kind.name}, without regions ({kind.reason})")
    return kind


def _one_name(reader: Reader) -> str:
    """Return what the class of a single map is called: the one label, or the second of two."""
    try:
        known = reader.labels_for(1)
    except TargetError:
        known = reader.labels_for(2)
    return known[-1] if known else FOREGROUND


def _percent(share: float) -> str:
    """Return a share as people read it: 21%, or of less than a hundredth 0.4%."""
    return f"{share:.0%}" if share >= 0.01 else f"{100 * share:.1g}%"

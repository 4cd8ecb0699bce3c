"""Segmentation of one image: the class of each position, and the regions of the classes.

`segmentation` defines the targets, `regions` the objectives.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from ibisa_onnx.errors import AbsentTargetError, TargetError
from ibisa_onnx.preprocessing.resampling import KERNELS, resample
from ibisa_onnx.targets.base import Answer, Box, Context, Reader, check_numbers
from ibisa_onnx.targets.detection import in_picture
from ibisa_onnx.targets.labels import find_label, spelt_index
from ibisa_onnx.targets.regions import Mask, Region, RegionObjective, percent
from ibisa_onnx.targets.score_maps import ScoreMaps
from ibisa_onnx.targets.window import Point, cell_at, cells_seen

FOREGROUND = "foreground"
"""Default name of the class of a single map."""
HALF = 0.5
"""Probability above which a position belongs to a class that excludes no other."""
BACKGROUND = frozenset(
    {"background", "_background_", "__background__", "bg", "backgrounds", "unlabeled", "unlabelled"}
    | {"void", "none", "nothing", "other", "ignore"}
)
"""Label names of the background, in lower case."""
PASCAL_VOC = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat"),
    *("chair", "cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant"),
    *("sheep", "sofa", "train", "tvmonitor"),
)
"""Classes of Pascal VOC, in order."""

_LEAST_THING = 0.1  # of a region: a non-background class with more of it is its class
_MOST_OF = 0.9  # of a region: a class with less of it is warned about
_NAMED = 6  # in an error


class Segmentation:
    """Segmentation of one image.

    Parameters
    ----------
    maps
        How the scores are read.
    values
        The scores, [1, ...].
    context
        The model's labels, and the image's geometry.

    Raises
    ------
    OutputError
        The scores are NaN.
    """

    def __init__(self, maps: ScoreMaps, values: npt.NDArray[Any], context: Context) -> None:
        check_numbers(values, maps.name)
        self.maps, self._values, self._context = maps, values, context
        self.grid = maps.grid(values)

    # -- classes

    @cached_property
    def labels(self) -> tuple[str, ...] | None:
        """Class names; None if unknown."""
        if self.maps.classes == 1:
            return (_one_name(self._context.reader),)
        known = self._context.reader.labels_for(self.maps.classes)
        return PASCAL_VOC if known is None and self.maps.classes == len(PASCAL_VOC) else known

    @property
    def notes(self) -> tuple[str, ...]:
        """Warnings about what is assumed for this image."""
        notes = []
        if self.labels is PASCAL_VOC:
            notes.append(
                "the 21 classes have no labels and are assumed to be Pascal VOC's; if they are "
                "not, pass labels="
            )
        if self._threshold != HALF:
            notes.append(
                f"{FOREGROUND} is above 50% everywhere in the image; its region is where it is "
                f"above {self._threshold:.0%}, the middle of its range"
            )
        return tuple(notes)

    def column(self, wanted: str | int) -> int:
        """Return the class index that a name or number stands for.

        Raises
        ------
        TargetError
            There is no such class.
        """
        text, classes = str(wanted).strip(), self.maps.classes
        index = spelt_index(text, self.labels)
        if index is not None:
            if not 0 <= index < classes:
                many = f"classes are 0 to {classes - 1}" if classes > 1 else "the only class is 0"
                raise TargetError(f"class {index} is out of range: {many}")
            return index
        if self.labels is None:
            raise TargetError(
                f"target {text!r} is a name, but the model's labels are unknown; "
                "pass labels=FILE, or a class index"
            )
        return find_label(self.labels, text)

    def name(self, column: int) -> str:
        """Return the name of a class."""
        return self.labels[column] if self.labels else f"class {column}"

    @cached_property
    def background(self) -> int | None:
        """Index of the background class; None if there is none.

        Taken from the labels; without labels it is class 0, if that dominates the image border.
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
        """Return the cells within the image that are assigned to a class, bool [h, w]."""
        if self.maps.exclusive:
            return np.asarray((self._winners == column) & self._seen)
        return np.asarray((self._probability(column) > self._threshold) & self._seen)

    def largest(self) -> int:
        """Return the class with the largest area; the background only if there is no other.

        Raises
        ------
        TargetError
            No cell is assigned to any class.
        """
        present = self._present
        if not present:
            raise AbsentTargetError(self.summary())
        return next((each for each in present if each != self.background), next(iter(present)))

    def most_given(self, mask: Mask) -> int:
        """Return the most frequent class in a region, preferring objects over background."""
        counts = {each: int((self.given(each) & mask).sum()) for each in self._present}
        counts = dict(sorted(counts.items(), key=lambda item: -item[1])) or {0: 0}
        least = _LEAST_THING * int(mask.sum())
        things = (each for each, n in counts.items() if each != self.background and n >= least)
        return next(things, next(iter(counts)))

    def around(self, at: Point, wanted: int | None) -> tuple[int, Mask]:
        """Return the class at a point of the image, and its connected region around it.

        Raises
        ------
        TargetError
            The point lies outside the image, has no class, or not the wanted one.
        """
        import cv2

        at = self._context.check_point(at)
        row, column = cell_at(at, self._context.geometry, self.grid)
        own = int(self._scores[:, row, column].argmax()) if wanted is None else wanted
        mask = self.given(own)
        if not mask[row, column]:
            what = self.name(own) if wanted is not None or self.maps.classes == 1 else "class"
            there = self._there(row, column)
            raise AbsentTargetError(f"there is no {what} at {at[0]:g},{at[1]:g}; {there}")
        _, parts = cv2.connectedComponents(mask.astype(np.uint8))
        return own, np.asarray(parts == parts[row, column])

    def projected(self, mask: Mask) -> Mask:
        """Return the cells that a region of the image covers: by at least half, or else at all.

        Parameters
        ----------
        mask
            bool [H, W], of the original image.

        Raises
        ------
        TargetError
            The model sees nothing of the region.
        """
        geometry = self._context.geometry
        (top, left), (high, wide), (rows, columns) = geometry.offset, geometry.scale, geometry.model
        box = (-top / high, -left / wide, (rows - top) / high, (columns - left) / wide)
        covered = resample(mask.astype(np.float32), self.grid, KERNELS["box"], box) * self._seen
        for least in (0.5, 1e-6):
            found = np.asarray(covered >= least)
            if found.any():
                return found
        raise AbsentTargetError(
            "the region lies outside the part of the image that the model sees; "
            "pass another region, or overrides={'resize': 'stretch'}"
        )

    def within(self, region: Mask, column: int) -> tuple[Mask, tuple[str, ...]]:
        """Return the cells of a region that count for a class, and warnings.

        These are the cells that the model assigns to the class: in the corners of a box around an
        object the class's probability is almost 0, and so would be the geometric mean. If there are
        none, all cells count.
        """
        own, name = region & self.given(column), self.name(column)
        share = float(own.sum() / region.sum())
        if not share:
            return region, (
                f"the model does not predict {name} in the region; all of it is explained",
            )
        if share > _MOST_OF:
            return own, ()
        said = (
            f"the model assigns {percent(share)} of the region to {name}; only that part is "
            "explained"
        )
        return own, (said,)

    def objective(self, column: int, mask: Mask, *notes: str) -> RegionObjective:
        """Return the objective of a class over cells, bool [h, w], with additional warnings."""
        label = self.labels[column] if self.labels else None
        box, area = self._box(mask), self._area(mask)
        notes = (*self.notes, *notes)
        return RegionObjective(self.maps, column, Region.of(mask), label, box, area, notes)

    def answers(self) -> Iterator[Answer]:
        """Yield the classes in the image, largest area first."""
        for column, area in self._present.items():
            made = self.objective(column, self.given(column))
            score = float(made.probability({self.maps.name: self._values})[0])
            details = {"area": area}
            yield Answer(self.name(column), score, column, made.label, made.box, details)

    def summary(self) -> str:
        """Summarise the classes in the image."""
        if not self._present:
            most = float(np.max(self._all_probabilities * self._seen))
            return f"no part of the image reaches {HALF:.0%}; the highest probability is {most:.0%}"
        named = [f"{self.name(n)} {percent(area)}" for n, area in self._present.items()]
        more = len(named) - _NAMED
        rest = f" and {more} more" if more > 0 else ""
        return f"the image contains: {', '.join(named[:_NAMED])}{rest}"

    def _there(self, row: int, column: int) -> str:
        """Describe what is at a cell; if it has no class, what the image contains."""
        if not self._seen[row, column]:
            return (
                "the model does not see that point; pass another one, or "
                "overrides={'resize': 'stretch'}"
            )
        chances = self._all_probabilities[:, row, column]
        found = [each for each in self._present if self.given(each)[row, column]]
        if not found:
            most = int(chances.argmax())
            likeliest = f"{self.name(most)} {chances[most]:.0%}"
            return f"the most likely class there is {likeliest}; {self.summary()}"
        found.sort(key=lambda each: -chances[each])
        named = [f"{self.name(each)} {chances[each]:.0%}" for each in found[:_NAMED]]
        return f"found there: {', '.join(named)}"

    # -- cached intermediate results

    @cached_property
    def _scores(self) -> npt.NDArray[np.float32]:
        """All scores, [K, h, w]."""
        return np.asarray(self.maps.scores(self._values)[0].reshape(-1, *self.grid))

    @cached_property
    def _winners(self) -> npt.NDArray[np.intp]:
        """Class with the largest score, [h, w]."""
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
        """Probability above which a cell belongs to a class that excludes no other.

        Saliency maps may be above 0.5 everywhere; the threshold is then the middle of their range.
        """
        if self.maps.classes > 1:
            return HALF
        shown = self._probability(0)[self._seen]
        low, high = float(shown.min()), float(shown.max())
        return HALF if low <= HALF else (low + high) / 2

    @cached_property
    def _seen(self) -> Mask:
        """Whether the centre of each cell lies within the image, bool [h, w]."""
        return cells_seen(self._context.geometry, self.grid)

    @cached_property
    def _present(self) -> dict[int, float]:
        """Fraction of the image that each class covers, largest first."""
        columns: list[int] = list(range(self.maps.classes))
        if self.maps.exclusive:
            columns = [int(each) for each in np.unique(self._winners[self._seen])]
        areas = {each: self._area(self.given(each)) for each in columns}
        return {n: areas[n] for n in sorted(areas, key=lambda n: -areas[n]) if areas[n] > 0}

    def _area(self, mask: Mask) -> float:
        """Return the fraction of the image that cells cover."""
        seen = self._context.geometry.seen_share
        return float(mask.sum() / max(1, int(self._seen.sum()))) * min(1.0, seen)

    def _box(self, mask: Mask) -> Box:
        """Return the bounding box of cells, in pixels of the original image."""
        rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
        sides = self._context.geometry.model
        down, across = (side / cells for side, cells in zip(sides, self.grid, strict=True))
        place = (columns[0] * across, rows[0] * down, (columns[-1] + 1) * across)
        return in_picture((*place, (rows[-1] + 1) * down), self._context.geometry)


def _one_name(reader: Reader) -> str:
    """Return the name of a single map's class: the only label, or the second of two."""
    try:
        known = reader.labels_for(1)
    except TargetError:
        known = reader.labels_for(2)
    return known[-1] if known else FOREGROUND

"""Detectors: their boxes, and the probability that an object is still seen in one of them.

A box is explained by the best of the anchors that overlap it by more than a half on the untouched
picture: which of them wins may change where pixels are hidden, and the object is seen all the same.
Where rows were selected no anchor keeps its place, and rows are matched by overlap each time. How
raw outputs become boxes is in `decoders`.
"""

from __future__ import annotations

import functools
import math
import numbers
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ibisa_onnx.errors import AbsentTargetError, TargetError
from ibisa_onnx.targets.base import (
    Answer,
    Box,
    Context,
    Kind,
    Nodes,
    Objective,
    Raw,
    Reader,
    TargetSpec,
    check_numbers,
    is_point,
    wrong_kind,
)
from ibisa_onnx.targets.boxes import (
    OVERLAP,
    BoxObjective,
    MatchedObjective,
    SimilarityToBox,
    area,
    overlaps,
)
from ibisa_onnx.targets.decoders import DECODERS
from ibisa_onnx.targets.decoders.base import BOXES, SCORES, Detector
from ibisa_onnx.targets.facts import ModelFacts
from ibisa_onnx.targets.labels import find_label, spelt_index

if TYPE_CHECKING:
    from ibisa_onnx.preprocessing.geometry import Geometry

CONFIDENCE = 0.25
"""The score from which a box counts as detected."""
_SUPPRESSED = 0.45  # of two boxes of one class that overlap by more, the less sure one is left out
_MOST = 300  # detections
_COMPARED = 30_000  # boxes, the surest, among which they are looked for
_NAMED = 6  # in an error


@dataclass(frozen=True)
class BestAnchor:
    """The anchor that is surest of a class, where nothing says where its box is.

    Attributes
    ----------
    output, column
        The output of probabilities, float [N, A, K], and the class.
    """

    output: str
    column: int

    def outputs(self, reader: Reader) -> tuple[str, ...]:
        """Name the output of scores."""
        return (self.output,)

    def bind(self, raw: Raw, context: Context) -> list[Objective]:
        """Return the best anchor of one picture.

        Raises
        ------
        TargetError
            The output holds no scores of anchors, or not of that class.
        """
        scores = raw[self.output]
        column = self.column
        whole = isinstance(column, int | np.integer) and not isinstance(column, bool)
        if scores.ndim != 3 or not whole or not 0 <= column < scores.shape[2]:
            raise TargetError(
                f"output {self.output} is {list(scores.shape)}; an anchor of class {self.column} "
                "is read off scores [1, anchors, classes]"
            )
        best = int(scores[0, :, self.column].argmax())
        return [BoxObjective(self.output, (best,), self.column, f"class {column}, anchor {best}")]


@dataclass(frozen=True)
class Detection:
    """An object that a detector found.

    Attributes
    ----------
    place
        Left, top, right, bottom in pixels of the model's input.
    box
        The same in the picture's pixels.
    column, score
        The class, and the probability.
    row
        Which of the rows or anchors it is.
    """

    place: Box
    box: Box
    column: int
    score: float
    row: int = 0


@dataclass(frozen=True)
class BoxTarget:
    """Detections, as a user points at them.

    Attributes
    ----------
    number
        Which of the detections, from 1, the surest first; None: whichever the rest leaves.
    at
        A point inside, x and y in the picture's pixels: the smallest box there. It goes without a
        number.
    label
        A class, by name or index.
    every
        All that are left, and not the first alone.
    confidence
        The least score of a detection.
    """

    number: int | None = None
    at: tuple[float, float] | None = None
    label: str | int | None = None
    every: bool = False
    confidence: float = CONFIDENCE

    def __post_init__(self) -> None:
        """Raise `TargetError` where a value is none of these."""
        number = self.number
        whole = isinstance(number, int | np.integer) and not isinstance(number, bool)
        if number is not None and not whole:
            raise TargetError(f"box is {number!r}; give its number as inspect lists them, from 1")
        if self.at is not None and not is_point(self.at):
            raise TargetError(f"at is {self.at!r}; give x and y in the picture's pixels")
        if number is not None and self.at is not None:
            raise TargetError(f"box {number} and at are both given; give one of them")
        _check_score(self.confidence)

    def outputs(self, reader: Reader) -> tuple[str, ...]:
        """Name the tensors of boxes and scores."""
        return _detector_of(reader).outputs()

    def bind(self, raw: Raw, context: Context) -> list[Objective]:
        """Return the boxes that it means.

        Raises
        ------
        TargetError
            There is no such box in this picture.
        """
        kind = _detector_of(context.reader)
        found = kind.detections(raw, context, self.confidence)
        if not found:
            raise AbsentTargetError(kind.nothing(raw, context, self.confidence))
        chosen = self._chosen(found, kind, context)
        return [kind.objective(found[each], each + 1, raw, context) for each in chosen]

    def _chosen(
        self, found: Sequence[Detection], kind: DetectorKind, context: Context
    ) -> list[int]:
        left = list(range(len(found)))
        there = kind.summary(found, context)
        if self.label is not None:
            column = kind.column(self.label, context)
            left = [each for each in left if found[each].column == column]
            if not left:
                raise AbsentTargetError(
                    f"no {kind.class_name(column, context)} was detected; {there}"
                )
        if self.at is not None:
            x, y = context.check_point(self.at)
            left = [each for each in left if _inside((x, y), found[each].box)]
            left.sort(key=lambda each: area(found[each].box))
            if not left:
                raise AbsentTargetError(f"nothing was detected at {x:g},{y:g}; {there}")
        if self.number is not None:
            if not 1 <= self.number <= len(found) or self.number - 1 not in left:
                raise AbsentTargetError(f"there is no box {self.number}; {there}")
            left = [self.number - 1]
        return left if self.every else left[:1]


class DetectorKind(Kind):
    """A detector whose outputs are decoded.

    Parameters
    ----------
    detector
        How.
    """

    name = "detector"
    asks = (
        *("BoxTarget(3)", "BoxTarget(every=True)", "PointTarget((120, 80))"),
        *("target=CLASS", "ContrastTarget(CLASS, CLASS)"),
    )

    def __init__(self, detector: Detector) -> None:
        self.detector = detector
        self.family = detector.family
        self.reason = f"{detector.family}: {detector.reason}"
        self.warnings = detector.warnings
        self.preprocessing = detector.preprocessing

    @property
    def nodes(self) -> tuple[Nodes, ...]:
        """The decoder's."""
        return (self.detector,)

    def outputs(self) -> tuple[str, ...]:
        """Name the tensors of boxes and scores, and what they are made of where that is checked."""
        checked = self.detector.sources if self.detector.check is not None else ()
        return *self.detector.outputs, *checked

    def target(self, wanted: str | int | None) -> TargetSpec:
        """Return the surest box, of a class where one is named; "all": all boxes."""
        if wanted == "all":
            return BoxTarget(every=True)
        if isinstance(wanted, str) and wanted.lower().startswith("top:"):
            raise TargetError(
                f"target {wanted} asks for classes, and a detector gives boxes; "
                "give one class, or all"
            )
        return BoxTarget(label=wanted)

    def at(self, point: tuple[float, float], wanted: str | int | None = None) -> TargetSpec:
        """Return the smallest box around a point, of a class where one is named."""
        return BoxTarget(at=point, label=wanted)

    def answers(self, raw: Raw, context: Context, confidence: float = CONFIDENCE) -> list[Answer]:
        """Return the detections of a score or more, the surest first."""
        return [
            Answer(
                self.class_name(each.column, context),
                each.score,
                each.column,
                self._label(each.column, context),
                each.box,
                number=number,
            )
            for number, each in enumerate(self.detections(raw, context, confidence), 1)
        ]

    def detections(
        self, raw: Raw, context: Context, confidence: float = CONFIDENCE
    ) -> list[Detection]:
        """Return what was detected, the surest first: of boxes of one object the best.

        Raises
        ------
        OutputError
            The scores are NaN, or a function's outputs do not hold what it declared.
        """
        if self.detector.check is not None:
            self.detector.check(raw)
        check_numbers(raw[SCORES], *self.detector.sources)
        places = np.asarray(raw[BOXES][0], np.float64)
        scores = np.asarray(raw[SCORES][0], np.float64)
        columns, best = scores.argmax(1), scores.max(1)
        whole = np.isfinite(places).all(1) & (places[:, 2:] > places[:, :2]).all(1)
        rows = np.flatnonzero((best >= confidence) & whole)
        rows = rows[np.argsort(-best[rows], kind="stable")][:_COMPARED]
        kept: list[int] = []
        for row in rows:
            same = [each for each in kept if columns[each] == columns[row]]
            if same and overlaps(places[same], _as_box(places[row])).max() > _SUPPRESSED:
                continue
            kept.append(int(row))
            if len(kept) == _MOST:
                break
        return [
            Detection(
                _as_box(places[row]),
                in_picture(_as_box(places[row]), context.geometry),
                int(columns[row]),
                float(best[row]),
                row,
            )
            for row in kept
        ]

    def objective(self, detection: Detection, number: int, raw: Raw, context: Context) -> Objective:
        """Return the objective of a detection."""
        shared: dict[str, Any] = {
            "column": detection.column,
            "label": self._label(detection.column, context),
            "number": number,
            "box": detection.box,
            "within": as_shares(detection.place, context.geometry.model),
            "writers": self.nodes,
            "similarity": SimilarityToBox(
                BOXES,
                SCORES,
                detection.place,
                tuple(np.asarray(raw[SCORES][0, detection.row], np.float64).tolist()),
            ),
        }
        if not self.detector.dense:
            return MatchedObjective(BOXES, SCORES, detection.place, **shared)
        near = overlaps(np.asarray(raw[BOXES][0], np.float64), detection.place) > OVERLAP
        return BoxObjective(SCORES, tuple(np.flatnonzero(near).tolist()), **shared)

    def column(self, wanted: str | int, context: Context) -> int:
        """Return the class that a word means.

        Raises
        ------
        TargetError
            There is none.
        """
        labels, classes = self._labels(context), self.detector.classes
        index = spelt_index(str(wanted), labels)
        if index is not None:
            if not 0 <= index < classes:
                many = f"classes are 0 to {classes - 1}" if classes > 1 else "the only class is 0"
                raise TargetError(f"class {index} is out of range: {many}")
            return index
        if labels is None:
            raise TargetError(
                f"target {wanted!r} is a name, and the model's labels are not known; "
                "give labels=FILE, or a class index"
            )
        return find_label(labels, str(wanted))

    def class_name(self, column: int, context: Context) -> str:
        """Return what a class is called."""
        return self._label(column, context) or f"class {column}"

    def nothing(self, raw: Raw, context: Context, confidence: float = CONFIDENCE) -> str:
        """Say that nothing was detected, and what comes nearest."""
        found = next(iter(self.detections(raw, context, 0)), None)
        best = None if found is None else (self.class_name(found.column, context), found.score)
        return nothing_found(confidence, best)

    def summary(self, found: Sequence[Detection], context: Context) -> str:
        """Say what was detected."""
        named = [
            f"{number} {self.class_name(each.column, context)} {each.score:.0%}"
            for number, each in enumerate(found[:_NAMED], 1)
        ]
        more = len(found) - len(named)
        return f"detected: {', '.join(named)}{f' and {more} more' if more else ''}"

    def _labels(self, context: Context) -> tuple[str, ...] | None:
        """Return the names of the classes; selected rows do not say how many there are."""
        count = self.detector.classes if self.detector.dense else None
        return context.reader.labels_for(count) or self.detector.labels

    def _label(self, column: int, context: Context) -> str | None:
        labels = self._labels(context) or ()
        return labels[column] if column < len(labels) else None


def find(facts: ModelFacts) -> DetectorKind | None:
    """Recognise a detector by the first decoder that knows its outputs."""
    for decoder in DECODERS:
        detector = decoder(facts)
        if detector is not None:
            return DetectorKind(detector)
    return None


def in_picture(place: Box, geometry: Geometry) -> Box:
    """Return a box of the model's input in the picture's pixels, cut at its borders."""
    (down, across), (top, left) = geometry.scale, geometry.offset
    height, width = geometry.picture
    x0, y0, x1, y1 = place
    sides = ((x0 - left) / across, (y0 - top) / down, (x1 - left) / across, (y1 - top) / down)
    most = (width, height, width, height)
    cut = [float(np.clip(side, 0, limit)) for side, limit in zip(sides, most, strict=True)]
    return cut[0], cut[1], cut[2], cut[3]


def as_shares(place: Box, size: tuple[int, int]) -> Box:
    """Return a box of the model's input of (H, W) in 0..1 of its sides, cut at its borders."""
    height, width = size
    left, top, right, bottom = (
        float(np.clip(each / side, 0, 1))
        for each, side in zip(place, (width, height, width, height), strict=True)
    )
    return left, top, right, bottom


def nothing_found(confidence: float, best: tuple[str, float] | None) -> str:
    """Say that nothing reaches a score, and which class has the highest; None: no box at all."""
    said = f"nothing was detected with a score of {_shown(confidence)} or more"
    if best is None:
        return f"{said}, nor with any; check the preprocessing, or give another picture"
    name, score = best
    lower = math.floor(100 * score) / 100
    hint = f", or give confidence={lower:g}" if lower else ""
    return f"{said}: the highest is {_shown(score)}, of {name}; check the preprocessing{hint}"


def _shown(score: float) -> str:
    """Return a score as people read it: 25%, 0.4%, 99.99%."""
    return f"{100 * score:.3g}%" if 0.01 <= score <= 0.99 else f"{100 * score:.4g}%"


def answers_above(confidence: float, kind: Kind) -> Callable[[Raw, Context], list[Answer]]:
    """Return what gives a detector's answers of a score or more.

    Raises
    ------
    TargetError
        The score is none, or the model gives no boxes.
    """
    _check_score(confidence)
    if not isinstance(kind, DetectorKind):
        raise wrong_kind(kind, "boxes")
    return functools.partial(kind.answers, confidence=confidence)


def _check_score(confidence: Any) -> None:
    if not isinstance(confidence, numbers.Real) or not 0 <= float(confidence) <= 1:
        raise TargetError(f"confidence is {confidence!r}; give a score, 0 to 1")


def _detector_of(reader: Reader) -> DetectorKind:
    kind = reader.kind
    if not isinstance(kind, DetectorKind):
        raise wrong_kind(kind, "boxes")
    return kind


def _as_box(values: npt.NDArray[np.float64]) -> Box:
    x0, y0, x1, y1 = (float(each) for each in values)
    return x0, y0, x1, y1


def _inside(point: tuple[float, float], box: Box) -> bool:
    return box[0] <= point[0] <= box[2] and box[1] <= point[1] <= box[3]

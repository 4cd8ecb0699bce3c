"""Detectors: their boxes, and the objective that an object is still detected.

A box is explained by the best of the anchors that overlap it by more than a half on the unmasked
image: masking may change which anchor is best while the object is still detected. If the model
selects rows (NMS), no anchor keeps its index, and rows are matched by overlap instead. `decoders`
turns raw outputs into boxes.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ibisa_onnx.checks import check_flag, shown
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
"""Default minimum score of a detection."""
_SUPPRESSED = 0.45  # IoU above which NMS drops the lower-scoring box of the same class
_MOST = 300  # detections
_COMPARED = 30_000  # highest-scoring boxes considered by NMS
_NAMED = 6  # in an error


@dataclass(frozen=True)
class BestAnchor:
    """Target the highest-scoring anchor of a class, for detectors whose boxes cannot be decoded.

    Attributes
    ----------
    output
        Name of the output of class probabilities, float [N, A, K].
    column
        Class index.

    Raises
    ------
    TargetError
        When bound: the output does not hold anchor scores, or not of that class.
    """

    output: str
    column: int

    def outputs(self, reader: Reader) -> tuple[str, ...]:
        """Return the name of the output of scores."""
        return (self.output,)

    def bind(self, raw: Raw, context: Context) -> list[Objective]:
        """Return the objective of the best anchor for one image.

        Raises
        ------
        TargetError
            The output does not hold anchor scores, or not of that class.
        """
        scores = raw[self.output]
        column = self.column
        whole = isinstance(column, int | np.integer) and not isinstance(column, bool)
        if scores.ndim != 3 or not whole or not 0 <= column < scores.shape[2]:
            raise TargetError(
                f"output {self.output} is {list(scores.shape)}; BestAnchor of class {self.column} "
                "requires scores [1, anchors, classes]"
            )
        best = int(scores[0, :, self.column].argmax())
        return [BoxObjective(self.output, (best,), self.column, f"class {column}, anchor {best}")]


@dataclass(frozen=True)
class Detection:
    """Detected object.

    Attributes
    ----------
    place
        Left, top, right, bottom, in pixels of the model input.
    box
        The same box in pixels of the original image.
    column, score
        Class index, and the probability of that class.
    row
        Index of the row or anchor.
    """

    place: Box
    box: Box
    column: int
    score: float
    row: int = 0


@dataclass(frozen=True)
class BoxTarget:
    """Target one or several of a detector's boxes.

    Boxes are chosen by number, point or class, which may be combined except for number and point;
    without any, the highest-scoring box is the target.

    Attributes
    ----------
    number
        Number of the detection, from 1, in order of decreasing score; None for any.
    at
        A point in the box, x and y in pixels of the original image; of several boxes, the smallest.
        Cannot be combined with `number`.
    label
        Class, by name or index; None for any.
    every
        Explain all matching boxes, rather than the first.
    confidence
        Minimum score of a detection, 0..1.

    Raises
    ------
    TargetError
        An argument is invalid; when bound: there is no such box in the image.

    Examples
    --------
    >>> BoxTarget(3).number
    3
    """

    number: int | None = None
    at: tuple[float, float] | None = None
    label: str | int | None = None
    every: bool = False
    confidence: float = CONFIDENCE

    def __post_init__(self) -> None:
        """Raise `TargetError` if an argument is invalid."""
        number = self.number
        whole = isinstance(number, int | np.integer) and not isinstance(number, bool)
        if number is not None and not whole:
            raise TargetError(f"box is {number!r}; pass its number as inspect lists it, from 1")
        if self.at is not None and not is_point(self.at):
            raise TargetError(f"at is {self.at!r}; pass x and y in image pixels")
        if number is not None and self.at is not None:
            raise TargetError(f"box {number} and at are mutually exclusive; pass one of them")
        check_flag("every", self.every, TargetError)
        _check_score(self.confidence)

    def outputs(self, reader: Reader) -> tuple[str, ...]:
        """Return the names of the tensors of boxes and scores."""
        return _detector_of(reader).outputs()

    def bind(self, raw: Raw, context: Context) -> list[Objective]:
        """Return an objective for each chosen box of one image.

        Raises
        ------
        TargetError
            There is no such box in this image.
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
    """Detector whose outputs are decoded into boxes and scores.

    Parameters
    ----------
    detector
        The decoder's description of the outputs.
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
        """The decoder, which writes boxes and scores."""
        return (self.detector,)

    def outputs(self) -> tuple[str, ...]:
        """Return the names of the tensors of boxes and scores, and of their sources if checked."""
        checked = self.detector.sources if self.detector.check is not None else ()
        return *self.detector.outputs, *checked

    def target(self, wanted: str | int | None) -> TargetSpec:
        """Return the target of the best box, optionally of one class; "all" for all boxes."""
        if wanted == "all":
            return BoxTarget(every=True)
        if isinstance(wanted, str) and wanted.lower().startswith("top:"):
            raise TargetError(
                f"target {wanted} stands for classes, but a detector predicts boxes; "
                "pass a class, or all"
            )
        return BoxTarget(label=wanted)

    def at(self, point: tuple[float, float], wanted: str | int | None = None) -> TargetSpec:
        """Return the target of the smallest box around a point, of a class if named."""
        return BoxTarget(at=point, label=wanted)

    def answers(self, raw: Raw, context: Context, confidence: float = CONFIDENCE) -> list[Answer]:
        """Return the detections with at least this score, highest score first."""
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
        """Return the detections after non-maximum suppression, highest score first.

        Raises
        ------
        OutputError
            The scores are NaN, or a function's outputs contradict their declaration.
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
        """Return the class index that a name or number stands for.

        Raises
        ------
        TargetError
            There is no such class.
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
                f"target {wanted!r} is a name, but the model's labels are unknown; "
                "pass labels=FILE, or a class index"
            )
        return find_label(labels, str(wanted))

    def class_name(self, column: int, context: Context) -> str:
        """Return the name of a class."""
        return self._label(column, context) or f"class {column}"

    def nothing(self, raw: Raw, context: Context, confidence: float = CONFIDENCE) -> str:
        """Return the error message if nothing was detected, with the highest score."""
        found = next(iter(self.detections(raw, context, 0)), None)
        best = None if found is None else (self.class_name(found.column, context), found.score)
        return nothing_found(confidence, best)

    def summary(self, found: Sequence[Detection], context: Context) -> str:
        """Summarise what was detected."""
        named = [
            f"{number} {self.class_name(each.column, context)} {each.score:.0%}"
            for number, each in enumerate(found[:_NAMED], 1)
        ]
        more = len(found) - len(named)
        return f"detected: {', '.join(named)}{f' and {more} more' if more else ''}"

    def _labels(self, context: Context) -> tuple[str, ...] | None:
        """Return the class names; for selected rows their number need not match."""
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
    """Map a box from the model input to pixels of the original image, clipped to its borders."""
    (down, across), (top, left) = geometry.scale, geometry.offset
    height, width = geometry.picture
    x0, y0, x1, y1 = place
    sides = ((x0 - left) / across, (y0 - top) / down, (x1 - left) / across, (y1 - top) / down)
    most = (width, height, width, height)
    cut = [float(np.clip(side, 0, limit)) for side, limit in zip(sides, most, strict=True)]
    return cut[0], cut[1], cut[2], cut[3]


def as_shares(place: Box, size: tuple[int, int]) -> Box:
    """Return a box of the model input (H, W) as fractions 0..1 of its sides, clipped."""
    height, width = size
    left, top, right, bottom = (
        float(np.clip(each / side, 0, 1))
        for each, side in zip(place, (width, height, width, height), strict=True)
    )
    return left, top, right, bottom


def nothing_found(confidence: float, best: tuple[str, float] | None) -> str:
    """Return the error that no detection reaches a score; `best` is None if there is no box."""
    said = f"nothing was detected with a score of {_shown(confidence)} or more"
    if best is None:
        return f"{said}, or with any score; check the preprocessing, or use another image"
    name, score = best
    lower = math.floor(100 * score) / 100
    hint = f", or pass confidence={lower:g}" if lower else ""
    return f"{said}: the highest score is {_shown(score)} ({name}); check the preprocessing{hint}"


def _shown(score: float) -> str:
    """Format a score for people: 25%, 0.4%, 99.99%."""
    return f"{100 * score:.3g}%" if 0.01 <= score <= 0.99 else f"{100 * score:.4g}%"


def answers_above(confidence: float, kind: Kind) -> Callable[[Raw, Context], list[Answer]]:
    """Return a function that returns a detector's boxes with at least this score.

    Raises
    ------
    TargetError
        The score is invalid, or the model is not a detector.
    """
    _check_score(confidence)
    if not isinstance(kind, DetectorKind):
        raise wrong_kind(kind, "boxes")
    return functools.partial(kind.answers, confidence=confidence)


def _check_score(confidence: Any) -> None:
    real = isinstance(confidence, int | float | np.integer | np.floating)
    if not real or not 0 <= confidence <= 1:
        raise TargetError(f"confidence is {shown(confidence)}; pass a score from 0 to 1")


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

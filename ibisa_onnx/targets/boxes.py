"""The probability that an object is still seen in a box, as an objective, and how boxes overlap.

Which boxes there are is in `detection`, how raw outputs become boxes in `decoders`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ibisa_onnx.models.head import Head
from ibisa_onnx.targets.base import Box, Doubles, Nodes, Objective, Raw
from ibisa_onnx.targets.class_scores import SMALLEST

if TYPE_CHECKING:
    import onnx

OVERLAP = 0.5
"""The intersection over union from which two boxes are of one object."""


class _Detected(Objective):
    """What a detector says of one of its boxes, as a probability."""

    column: int
    label: str | None
    number: int | None
    box: Box | None
    within: Box | None
    writers: tuple[Nodes, ...]
    similarity: SimilarityToBox | None

    @property
    def nodes(self) -> tuple[Nodes, ...]:
        """What makes the tensors that it reads."""
        return self.writers

    @property
    def beside(self) -> tuple[str, ...]:
        """What its likeness to other boxes is read off."""
        return () if self.similarity is None else self.similarity.outputs

    @property
    def location(self) -> Box | None:
        """The box."""
        return self.within

    def score(self, raw: Raw) -> Doubles:
        """Return the logarithm of the probability, [N], at least log 1e-12."""
        return np.log(np.maximum(self.probability(raw), SMALLEST))

    def describe(self) -> dict[str, Any]:
        """Return the class, the number and the box."""
        return {
            "kind": "box",
            "caption": _caption(self.label, self.column, self.number, self.box),
            "output": ", ".join(self.outputs),
            "index": self.column,
            "label": self.label,
            "number": self.number,
            "box": self.box and [round(side, 1) for side in self.box],
        }


@dataclass(frozen=True)
class BoxObjective(_Detected):
    """The probability that an object of a class is seen in a box: that of the best anchor there.

    Attributes
    ----------
    output
        Name of a tensor float [N, A, K]: a probability for each anchor and class.
    anchors
        Those that overlap the box by more than a half.
    column, label
        The class, and what it is called.
    number
        Which of the detections it is, from 1.
    box
        Left, top, right, bottom in the picture's pixels; None where it is not known.
    within
        The same in 0..1 of the sides of the model's input.
    writers
        What makes the tensor, where the model has it not.
    similarity
        How D-RISE scores it; None where boxes are not known.
    """

    output: str
    anchors: tuple[int, ...]
    column: int
    label: str | None = None
    number: int | None = None
    box: Box | None = None
    within: Box | None = None
    writers: tuple[Nodes, ...] = field(default=(), repr=False)
    similarity: SimilarityToBox | None = field(default=None, repr=False)

    @property
    def outputs(self) -> tuple[str, ...]:
        """The tensor of scores."""
        return (self.output,)

    def probability(self, raw: Raw) -> Doubles:
        """Return the best anchor's probability, [N] in 0..1."""
        return np.asarray(np.clip(self._candidates(raw).max(1), 0, 1))

    def vjp(self, raw: Raw) -> dict[str, npt.NDArray[np.float32]]:
        """Return d log p / d scores: 1 / p at the best anchor, 0 where p can be none."""
        found = self._candidates(raw)
        best = found.argmax(1)
        score = found[np.arange(len(found)), best]
        possible = (score >= SMALLEST) & (score <= 1)
        cotangent = np.zeros(raw[self.output].shape, np.float32)
        places = np.asarray(self.anchors)[best]
        cotangent[np.arange(len(found)), places, self.column] = possible / np.maximum(
            score, SMALLEST
        )
        return {self.output: cotangent}

    def to_onnx(self, graph: onnx.GraphProto) -> str:
        """Write the logarithm of the probability behind the scores."""
        head = Head(graph)
        index = head.constant(list(self.anchors), np.int64)
        rows = head.op("Gather", self.output, index, axis=1)
        rows = head.op("Gather", rows, head.constant([self.column], np.int64), axis=2)
        return head.log(head.largest(rows), SMALLEST)

    def describe(self) -> dict[str, Any]:
        """Return the class, the number, the box, and how many anchors there are."""
        return super().describe() | {"anchors": len(self.anchors)}

    def _candidates(self, raw: Raw) -> Doubles:
        values = raw[self.output][:, list(self.anchors), self.column]
        return np.asarray(values, np.float64)


@dataclass(frozen=True)
class MatchedObjective(_Detected):
    """How well some row of boxes still shows an object: its score where it overlaps the box.

    That is the largest score of the class among the rows whose overlap with the box is above a
    half. Its derivative is that of the best row's score; where none is left there is none.

    Attributes
    ----------
    boxes, scores
        Names of tensors float [N, n, 4], in pixels of the input, and [N, n, K].
    place
        The box in pixels of the input.
    column, label, number, box, within, writers, similarity
        As of `BoxObjective`.
    """

    boxes: str
    scores: str
    place: Box
    column: int
    label: str | None = None
    number: int | None = None
    box: Box | None = None
    within: Box | None = None
    writers: tuple[Nodes, ...] = field(default=(), repr=False)
    similarity: SimilarityToBox | None = field(default=None, repr=False)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Boxes and scores."""
        return self.boxes, self.scores

    def probability(self, raw: Raw) -> Doubles:
        """Return the score of the best row that overlaps, [N] in 0..1; 0 where none does."""
        return np.asarray(np.clip(self._candidates(raw).max(1, initial=0.0), 0, 1))

    def vjp(self, raw: Raw) -> dict[str, npt.NDArray[np.float32]]:
        """Return d log p / d scores: 1 / p at the best row; the boxes only say which it is."""
        found = self._candidates(raw)
        rows, best = np.arange(len(found)), found.argmax(1)
        score = found[rows, best]
        possible = (score >= SMALLEST) & (score <= 1)
        cotangent = np.zeros(raw[self.scores].shape, np.float32)
        cotangent[rows, best, self.column] = possible / np.maximum(score, SMALLEST)
        return {self.scores: cotangent, self.boxes: np.zeros(raw[self.boxes].shape, np.float32)}

    def _candidates(self, raw: Raw) -> Doubles:
        near = overlaps(np.asarray(raw[self.boxes], np.float64), self.place) > OVERLAP
        return np.where(near, np.asarray(raw[self.scores][..., self.column], np.float64), 0)


@dataclass(frozen=True)
class SimilarityToBox(Objective):
    """How like a detection the most similar of all boxes is, as D-RISE scores it.

    That is the largest of overlap times cosine of the class scores times the box's own score
    (Petsiuk et al., CVPR 2021, equation 3).

    Attributes
    ----------
    boxes, scores
        Names of tensors float [N, A, 4], in pixels of the input, and [N, A, K].
    place
        The detection's box in pixels of the input.
    classes
        Its scores, K.
    """

    boxes: str
    scores: str
    place: Box
    classes: tuple[float, ...]

    @property
    def outputs(self) -> tuple[str, ...]:
        """Boxes and scores."""
        return self.boxes, self.scores

    def probability(self, raw: Raw) -> Doubles:
        """Return the largest similarity, [N] in 0..1."""
        near = overlaps(np.asarray(raw[self.boxes], np.float64), self.place)
        scores = np.asarray(raw[self.scores], np.float64)
        own = np.asarray(self.classes)
        lengths = np.linalg.norm(scores, axis=2) * np.linalg.norm(own)
        cosine = scores @ own / np.maximum(lengths, SMALLEST)
        similar = near * cosine * scores.max(2)
        return np.asarray(np.clip(similar.max(1, initial=0.0), 0, 1))

    def score(self, raw: Raw) -> Doubles:
        """Return its logarithm, at least log 1e-12."""
        return np.log(np.maximum(self.probability(raw), SMALLEST))

    def describe(self) -> dict[str, Any]:
        """Return the box."""
        return {"kind": "box", "caption": "box", "box": list(self.place)}


def similarity_of(objective: Objective) -> SimilarityToBox | None:
    """Return how D-RISE scores what an objective explains; None where that is no box."""
    if isinstance(objective, BoxObjective | MatchedObjective):
        return objective.similarity
    return None


def overlaps(boxes: npt.NDArray[np.float64], box: Box) -> Doubles:
    """Return the intersection over union of boxes [..., 4] with one."""
    left, top, right, bottom = box
    wide = np.minimum(boxes[..., 2], right) - np.maximum(boxes[..., 0], left)
    high = np.minimum(boxes[..., 3], bottom) - np.maximum(boxes[..., 1], top)
    both = np.maximum(wide, 0) * np.maximum(high, 0)
    areas = np.maximum(boxes[..., 2] - boxes[..., 0], 0) * np.maximum(
        boxes[..., 3] - boxes[..., 1], 0
    )
    return np.asarray(both / np.maximum(areas + area(box) - both, 1e-9))


def area(box: Box) -> float:
    """Return a box's area, 0 of one that is turned inside out."""
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def _caption(label: str | None, column: int, number: int | None, box: Box | None) -> str:
    name = label or f"class {column}"
    which = "" if number is None else f"box {number}: "
    where = "" if box is None else " at " + ",".join(f"{side:.0f}" for side in box)
    return f"{which}{name}{where}"

"""Objectives for detected boxes, and the overlap of boxes.

`detection` finds the boxes, `decoders` turns raw outputs into boxes.
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
"""Intersection over union above which two boxes count as the same object."""


class _Detected(Objective):
    """Probability that a detector assigns to one of its boxes."""

    column: int
    label: str | None
    number: int | None
    box: Box | None
    within: Box | None
    writers: tuple[Nodes, ...]
    similarity: SimilarityToBox | None

    @property
    def nodes(self) -> tuple[Nodes, ...]:
        """Writers of the tensors it reads."""
        return self.writers

    @property
    def beside(self) -> tuple[str, ...]:
        """Tensors from which D-RISE computes the similarity to other boxes."""
        return () if self.similarity is None else self.similarity.outputs

    @property
    def location(self) -> Box | None:
        """The box."""
        return self.within

    def score(self, raw: Raw) -> Doubles:
        """Return log p, float64 [N] in nats, at least log 1e-12."""
        return np.log(np.maximum(self.probability(raw), SMALLEST))

    def describe(self) -> dict[str, Any]:
        """Return class, number and box."""
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
    """Probability that an object of a class is detected in a box: that of its best anchor.

    Attributes
    ----------
    output
        Name of a tensor float [N, A, K]: a probability per anchor and class.
    anchors
        Indices of the anchors whose intersection over union with the box exceeds 0.5.
    column, label
        Class index and class name.
    number
        Number of the detection, from 1; None if unknown.
    box
        Left, top, right, bottom, in pixels of the original image; None if unknown.
    within
        The same box as fractions 0..1 of the model input; None if unknown.
    writers
        Writers of the tensor, if the model itself does not have it.
    similarity
        D-RISE's score of the box; None if boxes are unknown.
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
        """Return the best anchor's probability, float64 [N] in 0..1."""
        return np.asarray(np.clip(self._candidates(raw).max(1), 0, 1))

    def vjp(self, raw: Raw) -> dict[str, npt.NDArray[np.float32]]:
        """Return d log p / d scores: 1 / p at the best anchor, 0 if p is outside (1e-12, 1]."""
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
        """Append nodes that compute log p."""
        head = Head(graph)
        index = head.constant(list(self.anchors), np.int64)
        rows = head.op("Gather", self.output, index, axis=1)
        rows = head.op("Gather", rows, head.constant([self.column], np.int64), axis=2)
        return head.log(head.largest(rows), SMALLEST)

    def describe(self) -> dict[str, Any]:
        """Return class, number, box and number of anchors."""
        return super().describe() | {"anchors": len(self.anchors)}

    def _candidates(self, raw: Raw) -> Doubles:
        values = raw[self.output][:, list(self.anchors), self.column]
        return np.asarray(values, np.float64)


@dataclass(frozen=True)
class MatchedObjective(_Detected):
    """Probability that an object is still detected: the best score among overlapping boxes.

    Used if rows were selected, so that no row keeps its index between images. The score is the
    largest score of the class among rows whose intersection over union with the box exceeds 0.5.
    Its gradient is that of the best row's score, and zero if no row overlaps.

    Attributes
    ----------
    boxes, scores
        Names of tensors float [N, n, 4], in pixels of the model input, and [N, n, K].
    place
        The box in pixels of the model input.
    column, label, number, box, within, writers, similarity
        As in `BoxObjective`.
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
        """The tensors of boxes and scores."""
        return self.boxes, self.scores

    def probability(self, raw: Raw) -> Doubles:
        """Return the best score among overlapping rows, [N] in 0..1; 0 if no row overlaps."""
        return np.asarray(np.clip(self._candidates(raw).max(1, initial=0.0), 0, 1))

    def vjp(self, raw: Raw) -> dict[str, npt.NDArray[np.float32]]:
        """Return d log p / d scores: 1 / p at the best row; the boxes get no gradient."""
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
    """D-RISE's similarity to a detection, of the most similar among all boxes.

    The maximum over boxes of intersection over union, times cosine similarity of the class scores,
    times objectness (Petsiuk et al., Black-box Explanation of Object Detectors, CVPR 2021, eq. 3).

    Attributes
    ----------
    boxes, scores
        Names of tensors float [N, A, 4], in pixels of the model input, and [N, A, K].
    place
        The detection's box in pixels of the model input.
    classes
        The detection's scores, K.
    """

    boxes: str
    scores: str
    place: Box
    classes: tuple[float, ...]

    @property
    def outputs(self) -> tuple[str, ...]:
        """The tensors of boxes and scores."""
        return self.boxes, self.scores

    def probability(self, raw: Raw) -> Doubles:
        """Return the largest similarity, float64 [N] in 0..1."""
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
    """Return D-RISE's score for an objective; None if the objective is not a box."""
    if isinstance(objective, BoxObjective | MatchedObjective):
        return objective.similarity
    return None


def overlaps(boxes: npt.NDArray[np.float64], box: Box) -> Doubles:
    """Return the intersection over union of boxes [..., 4] with one box."""
    left, top, right, bottom = box
    wide = np.minimum(boxes[..., 2], right) - np.maximum(boxes[..., 0], left)
    high = np.minimum(boxes[..., 3], bottom) - np.maximum(boxes[..., 1], top)
    both = np.maximum(wide, 0) * np.maximum(high, 0)
    areas = np.maximum(boxes[..., 2] - boxes[..., 0], 0) * np.maximum(
        boxes[..., 3] - boxes[..., 1], 0
    )
    return np.asarray(both / np.maximum(areas + area(box) - both, 1e-9))


def area(box: Box) -> float:
    """Return a box's area; 0 if its corners are swapped."""
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def _caption(label: str | None, column: int, number: int | None, box: Box | None) -> str:
    name = label or f"class {column}"
    which = "" if number is None else f"box {number}: "
    where = "" if box is None else " at " + ",".join(f"{side:.0f}" for side in box)
    return f"{which}{name}{where}"

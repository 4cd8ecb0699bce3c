"""Interface of decoders: raw detector outputs to boxes and scores, as ONNX nodes.

A decoder recognises one family of formats by shapes, metadata and values, and appends nodes that
convert its outputs to a common form. The same nodes serve predictions, gradients and the compiled
graph, so only operators with the same meaning in all opsets from 7 on are used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ibisa_onnx.models.head import Head

if TYPE_CHECKING:
    import onnx

    from ibisa_onnx.models.signature import TensorInfo
    from ibisa_onnx.targets.base import Raw
    from ibisa_onnx.targets.facts import ModelFacts

DEFAULT_CLASSES = 91
"""COCO's classes including background, as numbered by torchvision and TensorFlow."""
BOXES, SCORES = "ibisa/boxes", "ibisa/scores"
"""Names of the tensors that a decoder's nodes make; see `Decoded`."""

_ORDERED = 0.98  # minimum fraction of boxes with ordered corners
_FOLLOWS = 0.5  # minimum correlation between both corners; widths do not correlate
_ENOUGH = 16  # boxes


@dataclass(frozen=True)
class Decoded:
    """Names of the tensors that hold decoded predictions.

    Attributes
    ----------
    boxes
        float32 [N, A, 4]: left, top, right, bottom, in pixels of the model input.
    scores
        float32 [N, A, K]: a probability per class, 0..1.
    """

    boxes: str
    scores: str


@dataclass(frozen=True, eq=False)
class Detector:
    """Detector whose output format was recognised.

    Attributes
    ----------
    family
        Name of the format.
    reason
        How it was recognised.
    sources
        The tensors that are decoded: outputs, or tensors before the selection.
    write
        Appends the nodes, and returns the tensors that they make.
    classes
        Number of classes, K.
    labels
        Class names, if the format implies them.
    dense
        Whether each anchor keeps its index between images. Selected rows do not; they are matched
        by overlap.
    preprocessing
        Usual preprocessing of the family, as fields of `Preprocessing`. Assumed, so everything that
        is specified takes precedence.
    warnings
        Warnings about what is inferred.
    check
        Checks that the sources, values [1, ...] by name, contain what is expected, and raises
        `OutputError` otherwise. None if their values have been examined already.
    """

    family: str
    reason: str
    sources: tuple[str, ...]
    write: Callable[[Head], Decoded]
    classes: int
    labels: tuple[str, ...] | None = None
    dense: bool = True
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    check: Callable[[Raw], None] | None = None

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the tensors that the nodes make."""
        return BOXES, SCORES

    def to_onnx(self, graph: onnx.GraphProto) -> None:
        """Append the nodes to a graph, in place."""
        head = Head(graph)
        decoded = self.write(head)
        for name, made in ((decoded.boxes, BOXES), (decoded.scores, SCORES)):
            head.alias(name, made)


Decoder = Callable[["ModelFacts"], Detector | None]
"""Recognises a family of formats; returns None for other models."""


def tables(facts: ModelFacts) -> dict[str, tuple[int, ...]]:
    """Return the shapes [1, a, b], by name, of all tensors that may be a table of predictions.

    If the graph selects, these are tensors before the selection, otherwise the outputs.
    """
    names = facts.dense if facts.dense else [each.name for each in facts.outputs]
    return {name: shape for name, shape in facts.shapes(names).items() if len(shape) == 3}


def is_named_otherwise(boxes: str, scores: str) -> bool:
    """Return whether the names indicate that boxes and scores are swapped.

    With four classes the shapes are the same.
    """
    return "box" in scores.lower() and "box" not in boxes.lower()


def cells(size: tuple[int, int] | None, strides: Sequence[int]) -> int:
    """Return the number of cells in grids of these strides over an input of this size."""
    if size is None:
        return 0
    return sum(-(-size[0] // stride) * -(-size[1] // stride) for stride in strides)


def are_corners(boxes: npt.NDArray[Any]) -> bool:
    """Return whether boxes [..., 4] are two corners, rather than centre, width and height.

    The second corner lies beyond the first, or, in an untrained network, correlates with it.
    """
    rows = np.asarray(boxes, np.float64).reshape(-1, 4)
    ordered = (rows[:, 2] >= rows[:, 0]) & (rows[:, 3] >= rows[:, 1])
    if ordered.mean() >= _ORDERED:
        return True
    if len(rows) < _ENOUGH or np.ptp(rows, axis=0).min() == 0:
        return False
    return all(np.corrcoef(rows[:, a], rows[:, a + 2])[0, 1] > _FOLLOWS for a in (0, 1))


def keeps_places(facts: ModelFacts, output: TensorInfo) -> bool:
    """Return whether an output's rows may be anchors: not if a function declares them dynamic."""
    return facts.is_deployed or all(isinstance(side, int) for side in output.shape[1:])


def are_shares(boxes: npt.NDArray[Any]) -> bool:
    """Return whether boxes [..., 4] are fractions of the image's sides, rather than pixels."""
    return bool(np.abs(boxes).max() <= 2)


def are_probabilities(values: npt.NDArray[Any]) -> bool:
    """Return whether all values lie in 0..1."""
    return bool(values.min() >= -1e-6 and values.max() <= 1 + 1e-3)


class Layout:
    """Nodes shared by decoders: columns of tables, corners of boxes, class scores."""

    def __init__(self, head: Head) -> None:
        self.head = head

    def columns(self, table: str, start: int, stop: int) -> str:
        """Select columns of [N, A, C]; returns [N, A, stop - start]."""
        index = self.head.constant(np.arange(start, stop), np.int64)
        return self.head.op("Gather", table, index, axis=2)

    def turned(self, table: str) -> str:
        """Transpose [N, C, A] to [N, A, C]."""
        return self.head.op("Transpose", table, perm=[0, 2, 1])

    def floats(self, table: str) -> str:
        """Cast a tensor to float32."""
        return self.head.op("Cast", table, to=1)

    def scaled(self, values: str, factors: npt.ArrayLike) -> str:
        """Multiply values by constants."""
        return self.head.op("Mul", values, self.head.constant(factors))

    def corners(self, centres: str, sides: str) -> str:
        """Convert centres and sides, [N, A, 2] each, to boxes [N, A, 4]."""
        half = self.scaled(sides, 0.5)
        first, second = (self.head.op(op, centres, half) for op in ("Sub", "Add"))
        return self.head.op("Concat", first, second, axis=2)

    def with_objectness(self, rows: str, columns: int) -> str:
        """Return class scores times objectness, from [N, A, columns]: box, objectness, classes."""
        return self.head.op("Mul", self.columns(rows, 5, columns), self.columns(rows, 4, 5))

    def numbered(self, labels: str, scores: str, classes: int) -> str:
        """Return scores [N, A, classes] for rows that have a single class, given by its index.

        `labels` and `scores` are [N, A, 1]. 1 - |class - k|, clipped at 0, is 1 for a row's own
        class and 0 for all others.
        """
        head = self.head
        each = head.constant(np.arange(classes, dtype=np.float32)[None, None])
        apart = head.op("Abs", head.op("Sub", labels, each))
        own = head.op("Relu", head.op("Sub", head.constant(1.0), apart))
        return head.op("Mul", own, scores)

    def from_centres(self, boxes: str) -> str:
        """Convert boxes [N, A, 4] from centre, width and height to corners."""
        return self.corners(self.columns(boxes, 0, 2), self.columns(boxes, 2, 4))


def grid(
    size: tuple[int, int], strides: Sequence[int], anchors: int = 1
) -> npt.NDArray[np.float32]:
    """Return column, row and stride of each cell, [A, 3], row by row, each `anchors` times."""
    found = []
    for stride in strides:
        high, wide = -(-size[0] // stride), -(-size[1] // stride)
        rows, columns = np.mgrid[:high, :wide]
        places = np.stack([columns, rows, np.full_like(rows, stride)], -1).reshape(-1, 3)
        found.append(np.repeat(places, anchors, axis=0))
    return np.concatenate(found).astype(np.float32)

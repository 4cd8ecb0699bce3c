"""What every decoder gives: a detector's raw outputs as boxes and scores, written as ONNX nodes.

A decoder recognises one family of formats by shapes, metadata and values, and writes the nodes that
bring its outputs to one form. The same nodes serve reading, gradients and the compiled graph, so
only operators that mean the same in every opset from 7 on are used.
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
"""Of COCO with the background, as torchvision and TensorFlow number them."""
BOXES, SCORES = "ibisa/boxes", "ibisa/scores"
"""The tensors that a decoder's nodes make; see `Decoded`."""

_ORDERED = 0.98  # of the boxes: so many have their second corner behind the first
_FOLLOWS = 0.5  # a correlation: of a second corner with the first, which a width has not
_ENOUGH = 16  # boxes


@dataclass(frozen=True)
class Decoded:
    """Names of the tensors that hold a detector's predictions.

    Attributes
    ----------
    boxes
        float32 [N, A, 4]: left, top, right, bottom in pixels of the model's input.
    scores
        float32 [N, A, K], in 0..1: a probability for each class.
    """

    boxes: str
    scores: str


@dataclass(frozen=True, eq=False)
class Detector:
    """A detector whose outputs are understood.

    Attributes
    ----------
    family
        What the format is called.
    reason
        How it was recognised.
    sources
        The tensors that are decoded: outputs, or those before the selection.
    write
        Adds the nodes, and returns what they make.
    classes
        K, how many classes there are.
    labels
        What they are called where the format says so.
    dense
        Whether each anchor keeps its place from one image to the next. Rows that were selected do
        not: they are matched by overlap.
    preprocessing
        What the family does to a picture, as fields of `Preprocessing`; a guess, which all that was
        said goes before.
    warnings
        What a user must know where something is inferred.
    check
        Sees that the sources, values [1, ...] by name, hold what they are taken for: raises
        `OutputError` where they do not. None: their values have told what they are.
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
        """The tensors that its nodes make."""
        return BOXES, SCORES

    def to_onnx(self, graph: onnx.GraphProto) -> None:
        """Write the nodes behind a graph, in place."""
        head = Head(graph)
        decoded = self.write(head)
        for name, made in ((decoded.boxes, BOXES), (decoded.scores, SCORES)):
            head.alias(name, made)


Decoder = Callable[["ModelFacts"], Detector | None]
"""Recognises a family of formats; None where a model is of another."""


def tables(facts: ModelFacts) -> dict[str, tuple[int, ...]]:
    """Return shapes [1, a, b] by name, of all that may be a table of predictions.

    Of a graph that selects these are the tensors before the selection, else the outputs.
    """
    names = facts.dense if facts.dense else [each.name for each in facts.outputs]
    return {name: shape for name, shape in facts.shapes(names).items() if len(shape) == 3}


def is_named_otherwise(boxes: str, scores: str) -> bool:
    """Tell whether the names say that what may be boxes are the scores, and the other way round.

    With four classes nothing else does.
    """
    return "box" in scores.lower() and "box" not in boxes.lower()


def cells(size: tuple[int, int] | None, strides: Sequence[int]) -> int:
    """Return how many places the grids of these strides have in an input of that size."""
    if size is None:
        return 0
    return sum(-(-size[0] // stride) * -(-size[1] // stride) for stride in strides)


def are_corners(boxes: npt.NDArray[Any]) -> bool:
    """Tell whether boxes [..., 4] are two corners, and not a centre with a width and a height.

    A second corner lies behind the first, or, in an untrained network, at least follows it from
    place to place.
    """
    rows = np.asarray(boxes, np.float64).reshape(-1, 4)
    ordered = (rows[:, 2] >= rows[:, 0]) & (rows[:, 3] >= rows[:, 1])
    if ordered.mean() >= _ORDERED:
        return True
    if len(rows) < _ENOUGH or np.ptp(rows, axis=0).min() == 0:
        return False
    return all(np.corrcoef(rows[:, a], rows[:, a + 2])[0, 1] > _FOLLOWS for a in (0, 1))


def keeps_places(facts: ModelFacts, output: TensorInfo) -> bool:
    """Tell whether an output may be raw, each row an anchor: a function's open rows come and go."""
    return facts.is_deployed or all(isinstance(side, int) for side in output.shape[1:])


def are_shares(boxes: npt.NDArray[Any]) -> bool:
    """Tell whether boxes [..., 4] are shares of the picture's sides, and not pixels."""
    return bool(np.abs(boxes).max() <= 2)


def are_probabilities(values: npt.NDArray[Any]) -> bool:
    """Tell whether all values lie in 0..1."""
    return bool(values.min() >= -1e-6 and values.max() <= 1 + 1e-3)


class Layout:
    """Nodes that decoders share: columns of tables, corners of boxes, grids."""

    def __init__(self, head: Head) -> None:
        self.head = head

    def columns(self, table: str, start: int, stop: int) -> str:
        """Return columns of [N, A, C], [N, A, stop - start]."""
        index = self.head.constant(np.arange(start, stop), np.int64)
        return self.head.op("Gather", table, index, axis=2)

    def turned(self, table: str) -> str:
        """Return [N, C, A] as [N, A, C]."""
        return self.head.op("Transpose", table, perm=[0, 2, 1])

    def floats(self, table: str) -> str:
        """Return a tensor as float32."""
        return self.head.op("Cast", table, to=1)

    def scaled(self, values: str, factors: npt.ArrayLike) -> str:
        """Return values times constants."""
        return self.head.op("Mul", values, self.head.constant(factors))

    def corners(self, centres: str, sides: str) -> str:
        """Return boxes [N, A, 4] from centres and sides, [N, A, 2] each."""
        half = self.scaled(sides, 0.5)
        first, second = (self.head.op(op, centres, half) for op in ("Sub", "Add"))
        return self.head.op("Concat", first, second, axis=2)

    def with_objectness(self, rows: str, columns: int) -> str:
        """Return scores of [N, A, columns]: box, objectness, classes; each class times it."""
        return self.head.op("Mul", self.columns(rows, 5, columns), self.columns(rows, 4, 5))

    def numbered(self, labels: str, scores: str, classes: int) -> str:
        """Return scores [N, A, classes] of rows that have one class each, by its number.

        `labels` and `scores` are [N, A, 1]. 1 - |class - k|, cut at 0, is 1 for a row's own class
        and 0 for all others.
        """
        head = self.head
        each = head.constant(np.arange(classes, dtype=np.float32)[None, None])
        apart = head.op("Abs", head.op("Sub", labels, each))
        own = head.op("Relu", head.op("Sub", head.constant(1.0), apart))
        return head.op("Mul", own, scores)

    def from_centres(self, boxes: str) -> str:
        """Return boxes [N, A, 4] from centres with widths and heights, [N, A, 4]."""
        return self.corners(self.columns(boxes, 0, 2), self.columns(boxes, 2, 4))


def grid(
    size: tuple[int, int], strides: Sequence[int], anchors: int = 1
) -> npt.NDArray[np.float32]:
    """Return column, row and stride of each place, [A, 3]: row by row, `anchors` times each."""
    found = []
    for stride in strides:
        high, wide = -(-size[0] // stride), -(-size[1] // stride)
        rows, columns = np.mgrid[:high, :wide]
        places = np.stack([columns, rows, np.full_like(rows, stride)], -1).reshape(-1, 3)
        found.append(np.repeat(places, anchors, axis=0))
    return np.concatenate(found).astype(np.float32)

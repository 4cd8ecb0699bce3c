"""Detectors' answers as targets: the score of one anchor, the best of its kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ibisa_onnx.errors import TargetError
from ibisa_onnx.models.head import Head
from ibisa_onnx.targets.base import Doubles, Objective, Raw
from ibisa_onnx.targets.class_scores import SMALLEST

if TYPE_CHECKING:
    import onnx

    from ibisa_onnx.targets.reader import OutputReader


@dataclass(frozen=True)
class AnchorObjective(Objective):
    """The probability that one anchor holds an object of one class.

    Attributes
    ----------
    output
        Name of an output float [N, A, K]: a probability for each anchor and class.
    anchor, column
        Which of them.
    """

    output: str
    anchor: int
    column: int

    @property
    def outputs(self) -> tuple[str, ...]:
        """The output of scores."""
        return (self.output,)

    def probability(self, raw: Raw) -> Doubles:
        """Return the anchor's probability, [N] in 0..1."""
        return np.clip(raw[self.output][:, self.anchor, self.column].astype(np.float64), 0, 1)

    def score(self, raw: Raw) -> Doubles:
        """Return its logarithm, at least log 1e-12."""
        return np.log(np.maximum(self.probability(raw), SMALLEST))

    def vjp(self, raw: Raw) -> dict[str, npt.NDArray[np.float32]]:
        """Return d log p / d scores: 1 / p at the anchor, 0 where p cannot be a probability."""
        values = raw[self.output]
        cotangent = np.zeros(values.shape, np.float32)
        score = values[:, self.anchor, self.column].astype(np.float32)
        possible = (score >= SMALLEST) & (score <= 1)
        cotangent[:, self.anchor, self.column] = possible / np.maximum(score, SMALLEST)
        return {self.output: cotangent}

    def to_onnx(self, graph: onnx.GraphProto) -> str:
        """Write the logarithm of the probability behind the scores."""
        head = Head(graph)
        index = head.constant([self.anchor], np.int64)
        rows = head.rows(head.op("Gather", self.output, index, axis=1))
        return head.log(head.column(rows, self.column), SMALLEST)

    def describe(self) -> dict[str, Any]:
        """Return the anchor and the class."""
        return {
            "kind": "anchor",
            "caption": f"anchor {self.anchor}, class {self.column}",
            "output": self.output,
            "index": self.column,
            "anchor": self.anchor,
        }


@dataclass(frozen=True)
class BestAnchor:
    """The anchor that is surest of a class.

    Attributes
    ----------
    output, column
        The output of probabilities, float [N, A, K], and the class.
    """

    output: str
    column: int

    def outputs(self, reader: OutputReader) -> tuple[str, ...]:
        """Name the output of scores."""
        return (self.output,)

    def bind(self, raw: Raw, reader: OutputReader) -> list[Objective]:
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
        return [AnchorObjective(self.output, int(scores[0, :, self.column].argmax()), self.column)]

"""What each output of a model looks like: class scores, detector rows, text or coordinates.

Judged by shape, name and graph, and by values if known. `discovery` decides which output is read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ibisa_onnx.models.signature import TensorInfo
from ibisa_onnx.targets.endings import (
    ends_in_probabilities,
    ends_in_softmax,
    has_unit_length,
    reads_a_line,
    selection,
)

if TYPE_CHECKING:
    import onnx

_SAME_LENGTH = 1e-5
"""Tolerance of the length of a normalised vector, given float32 rounding."""
LEAST_OF_EMBEDDING = 16
"""Minimum number of values in an embedding."""
EMBEDDING, VALUE = "an embedding", "a value"
"""Prefixes of what `OutputKinds.doubt` returns for these."""


def _words(*alternatives: str) -> re.Pattern[str]:
    """Match words in a name as whole words: age, but not page."""
    return re.compile(rf"(?<![a-z])({'|'.join(alternatives)})(?![a-z])", re.IGNORECASE)


_EMBEDDING = _words(r"embed\w*", "features?", "feat", "descriptors?", "pooler")
_VALUE = _words(
    *("age", "angle", "count", "depth", "distance", "height", "mos", "pitch", "price", "quality"),
    *("regression", "roll", "rotation", "skew", "temperature", "volume", "weight", "width", "yaw"),
    "years?",
)
_POINTS = _words(
    *("bbox(es)?", "box(es)?", r"coord\w*", "keypoints?", "landmarks?", "ldmks?", "points?"),
    "pose",
)


@dataclass(frozen=True)
class OutputKinds:
    """Classifies the outputs of one model.

    Attributes
    ----------
    outputs
        All outputs.
    batch
        Leading dimension of the image input.
    makers
        Node that makes each tensor; empty if the graph is unknown.
    """

    outputs: tuple[TensorInfo, ...]
    batch: int | str | None
    makers: Mapping[str, onnx.NodeProto]

    @property
    def sequences(self) -> list[TensorInfo]:
        """Outputs that hold scores per step along a line of text."""
        return [each for each in self.outputs if self.is_sequence(each)]

    def may_hold_scores(self, output: TensorInfo) -> bool:
        """Return whether an output's shape allows one score per class."""
        if not is_tensor(output) or self.is_sequence(output):
            return False
        if not output.shape:
            return True
        sides = [side for side in output.shape[1:] if isinstance(side, int) and side != 1]
        return len(output.shape) > 1 and len(sides) <= 1 and not self.is_beside_boxes(output)

    def is_beside_boxes(self, output: TensorInfo) -> bool:
        """Return whether another output has four values for each of this one's.

        Dynamic sizes are assumed to be equal.
        """
        sides = [side for side in output.shape[1:] if isinstance(side, int) and side != 1]
        boxes = [each.shape[1] for each in self.outputs if _holds_boxes(each)]
        is_open = len(output.shape) == 2 and not isinstance(output.shape[1], int)
        return any(sides == [n] or (is_open and not isinstance(n, int)) for n in boxes)

    def is_sequence(self, output: TensorInfo) -> bool:
        """Return whether an output holds scores per step along a line of text.

        The layout is [N, T, K], or [T, N, K] as in recurrent layers.
        """
        others = [each for each in self.outputs if each.name != output.name]
        if len(output.shape) != 3 or not output.dtype.startswith("float"):
            return False
        if any(map(_holds_boxes, others)):
            return False
        if _is_time_major(output.shape, self.batch):
            return True
        if 1 in output.shape[1:]:
            return False
        alone = all(len(each.shape) != 3 for each in others)
        return reads_a_line(output.name, self.makers) or (
            alone and ends_in_softmax(output.name, self.makers)
        )

    def doubt(self, name: str, output: str, values: npt.NDArray[Any]) -> str:
        """Return what a candidate for class scores looks like instead; "" if there is no doubt.

        Parameters
        ----------
        name
            Name of the tensor.
        output
            Output through which it was found, whose name counts.
        values
            Values of the tensor for one image.
        """
        if ends_in_probabilities(name, self.makers):
            return ""
        if has_unit_length(name, self.makers) or _is_unit_vector(values):
            return f"{EMBEDDING} (it is L2-normalised)"
        return self.doubt_by_name(name, output, single=values.size == 1)

    def doubt_by_name(self, name: str, output: str, *, single: bool) -> str:
        """Return what a tensor's name says that it holds, single or several values; or ""."""
        if ends_in_probabilities(name, self.makers):
            return ""
        word = output.rsplit("/", 1)[-1]
        if _EMBEDDING.search(word):
            return f"{EMBEDDING} (by its name)"
        if single and _VALUE.search(word):
            return f"{VALUE} of a regression (by its name)"
        if not single and _POINTS.search(word):
            return "coordinates (by its name)"
        return ""

    def describe(self, output: TensorInfo) -> str:
        """Return an output's name, dtype and shape, and what it looks like."""
        kind, _ = self._kind(output)
        return f"{output} ({kind})" if kind else str(output)

    def remedy(self, output: TensorInfo) -> str:
        """Return which class scores could be derived from an output; "" if unknown."""
        return self._kind(output)[1]

    def _kind(self, output: TensorInfo) -> tuple[str, str]:
        """Return what an output looks like, and which class scores could be derived from it."""
        made = selection(output.name, self.makers)
        if made is not None and made.operator == "TopK":
            what = "class indices" if "int" in output.dtype else "scores"
            return f"{what} sorted by TopK", "the scores before the TopK"
        if not is_tensor(output):
            return "not a numeric tensor", ""
        if self.is_sequence(output):
            return "scores per step of a line, like a text recogniser's", ""
        spatial = len(output.shape) == 4 or (len(output.shape) == 3 and "int" in output.dtype)
        if "int" in output.dtype:
            if not spatial:
                return "class indices", "the scores before the ArgMax"
            return (
                "a class index per pixel, like a segmenter's",
                "the scores before the ArgMax, averaged over the pixels",
            )
        if spatial:
            return (
                "values per pixel, like a segmenter's",
                "the per-class mean over all pixels",
            )
        if len(output.shape) == 3:
            return "rows of values, like a detector's", "the per-class maximum over all rows"
        return "", ""


def is_tensor(output: TensorInfo) -> bool:
    """Return whether an output is numeric; ONNX Runtime also has strings, maps and lists."""
    return output.dtype.startswith(("float", "bfloat", "int", "uint"))


def _holds_boxes(output: TensorInfo) -> bool:
    return len(output.shape) == 3 and output.shape[2] == 4


def _is_unit_vector(values: npt.NDArray[Any]) -> bool:
    """Return whether values look like a vector of length 1, and not like probabilities."""
    reals = values.astype(np.float64).ravel()
    length = float(np.sqrt(np.sum(reals**2)))
    several = len(reals) >= LEAST_OF_EMBEDDING
    return several and bool(reals.min() < 0) and abs(length - 1) < _SAME_LENGTH


def _is_time_major(shape: Sequence[int | str | None], batch: int | str | None) -> bool:
    """Return whether the second of three axes is the batch."""
    first, second, _ = shape
    if first == batch:
        return False
    several = isinstance(first, int) and first > 1
    return (batch is not None and second == batch) or (
        several and (not isinstance(second, int) or second == 1)
    )

"""What each output of a model looks like: class scores, rows of a detector, text, coordinates.

Told by shapes, names and the graph, and by values where these are known. Which output is read is
in `discovery`.
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
"""How near to 1 the rounding of single precision leaves the length of a normalised vector."""
LEAST_OF_EMBEDDING = 16
"""How many numbers an embedding has at least."""
EMBEDDING, VALUE = "an embedding", "a value"
"""How `OutputKinds.doubt` begins to say that a tensor is one of these."""


def _words(*alternatives: str) -> re.Pattern[str]:
    """Match one of some words in a name, but not within another: age, and not page."""
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
    """Tells the outputs of one model apart.

    Attributes
    ----------
    outputs
        All of them.
    batch
        The leading side of the input that takes the image.
    makers
        The node that makes each tensor of the graph; empty where the graph is not known.
    """

    outputs: tuple[TensorInfo, ...]
    batch: int | str | None
    makers: Mapping[str, onnx.NodeProto]

    @property
    def sequences(self) -> list[TensorInfo]:
        """The outputs that hold scores for each step along a line of text."""
        return [each for each in self.outputs if self.is_sequence(each)]

    def may_hold_scores(self, output: TensorInfo) -> bool:
        """Tell by its shape whether an output may be one score for each class."""
        if not is_tensor(output) or self.is_sequence(output):
            return False
        if not output.shape:
            return True
        sides = [side for side in output.shape[1:] if isinstance(side, int) and side != 1]
        return len(output.shape) > 1 and len(sides) <= 1 and not self.is_beside_boxes(output)

    def is_beside_boxes(self, output: TensorInfo) -> bool:
        """Tell whether another output has four numbers for each of this one's.

        Where they are any number of each, they are taken to be as many.
        """
        sides = [side for side in output.shape[1:] if isinstance(side, int) and side != 1]
        boxes = [each.shape[1] for each in self.outputs if _holds_boxes(each)]
        is_open = len(output.shape) == 2 and not isinstance(output.shape[1], int)
        return any(sides == [n] or (is_open and not isinstance(n, int)) for n in boxes)

    def is_sequence(self, output: TensorInfo) -> bool:
        """Tell whether an output holds scores for each step along a line of text.

        That is [N, T, K], or [T, N, K] as recurrent layers have it.
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
        """Return what a tensor that might hold class scores looks like instead, or "".

        Parameters
        ----------
        name
            The tensor.
        output
            The output that led to it, whose name counts.
        values
            The tensor's values for one image.
        """
        if ends_in_probabilities(name, self.makers):
            return ""
        if has_unit_length(name, self.makers) or _is_unit_vector(values):
            return f"{EMBEDDING} (it is divided by its own length, an L2 normalisation)"
        return self.doubt_by_name(name, output, single=values.size == 1)

    def doubt_by_name(self, name: str, output: str, *, single: bool) -> str:
        """Return what the name says that a tensor holds, single numbers or several; else ""."""
        if ends_in_probabilities(name, self.makers):
            return ""
        word = output.rsplit("/", 1)[-1]
        if _EMBEDDING.search(word):
            return f"{EMBEDDING} (by its name)"
        if single and _VALUE.search(word):
            return f"{VALUE}, as of a regression (by its name)"
        if not single and _POINTS.search(word):
            return "coordinates (by its name)"
        return ""

    def describe(self, output: TensorInfo) -> str:
        """Return an output's name, dtype and shape, and what it looks like."""
        kind, _ = self._kind(output)
        return f"{output} ({kind})" if kind else str(output)

    def remedy(self, output: TensorInfo) -> str:
        """Return which class scores could be made from an output, "" where that is not known."""
        return self._kind(output)[1]

    def _kind(self, output: TensorInfo) -> tuple[str, str]:
        """Return what an output looks like, and which class scores could be made from it."""
        made = selection(output.name, self.makers)
        if made is not None and made.operator == "TopK":
            what = "class indices" if "int" in output.dtype else "scores"
            return f"{what} sorted by TopK", "the scores before the TopK"
        if not is_tensor(output):
            return "no tensor of numbers", ""
        if self.is_sequence(output):
            return "scores for each step of a line, as text recognisers give", ""
        spatial = len(output.shape) == 4 or (len(output.shape) == 3 and "int" in output.dtype)
        if "int" in output.dtype:
            if not spatial:
                return "class indices", "the scores before the ArgMax"
            return (
                "a class index for each pixel, as segmenters give",
                "the scores before the ArgMax, averaged over the pixels",
            )
        if spatial:
            return (
                "numbers for each pixel, as segmenters give",
                "each class's mean score over the pixels",
            )
        if len(output.shape) == 3:
            return "rows of numbers, as detectors give", "each class's largest score over the rows"
        return "", ""


def is_tensor(output: TensorInfo) -> bool:
    """Tell whether an output is a tensor of numbers; ONNX Runtime has strings, maps and lists."""
    return output.dtype.startswith(("float", "bfloat", "int", "uint"))


def _holds_boxes(output: TensorInfo) -> bool:
    return len(output.shape) == 3 and output.shape[2] == 4


def _is_unit_vector(values: npt.NDArray[Any]) -> bool:
    """Tell by its values whether a vector has length 1 and is no set of probabilities."""
    reals = values.astype(np.float64).ravel()
    length = float(np.sqrt(np.sum(reals**2)))
    several = len(reals) >= LEAST_OF_EMBEDDING
    return several and bool(reals.min() < 0) and abs(length - 1) < _SAME_LENGTH


def _is_time_major(shape: Sequence[int | str | None], batch: int | str | None) -> bool:
    """Tell whether the second of three axes is the batch."""
    first, second, _ = shape
    if first == batch:
        return False
    several = isinstance(first, int) and first > 1
    return (batch is not None and second == batch) or (
        several and (not isinstance(second, int) or second == 1)
    )

"""Score maps: a score per class and position of the image, and the probabilities they encode.

`map_search` finds them; `segmentation` explains them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ibisa_onnx.models.head import Head
from ibisa_onnx.targets.base import Doubles
from ibisa_onnx.targets.class_scores import SMALLEST, Activation


@dataclass(frozen=True)
class ScoreMaps:
    """Tensor with a score per class and position, and how it is read.

    Attributes
    ----------
    name
        Name of the tensor, float [N, K, h, w] or [N, h, w, K]; for a single class also [N, h, w].
    classes
        Number of classes, K; 1 for a single map.
    last
        Whether the classes are the last axis.
    activation
        How the scores become probabilities.
    """

    name: str
    classes: int
    last: bool
    activation: Activation

    @property
    def exclusive(self) -> bool:
        """Whether each position belongs to exactly one class."""
        return self.classes > 1 and self.activation not in (
            Activation.SIGMOID,
            Activation.SIGMOID_LOGIT,
        )

    def grid(self, values: npt.NDArray[Any]) -> tuple[int, int]:
        """Return the number of rows and columns in values [N, ...]."""
        channels_last = self.last and values.ndim == 4
        high, wide = values.shape[1:3] if channels_last else values.shape[-2:]
        return int(high), int(wide)

    def scores(
        self, values: npt.NDArray[Any], cells: npt.NDArray[np.intp] | None = None
    ) -> npt.NDArray[np.float32]:
        """Return the scores [N, K, cells] of some cells, or of all, row by row."""
        if self.last:
            rows = values.reshape(len(values), -1, self.classes)
            rows = rows if cells is None else rows[:, cells]
            return np.moveaxis(rows, 2, 1).astype(np.float32, copy=False)
        columns = values.reshape(len(values), self.classes, -1)
        columns = columns if cells is None else columns[:, :, cells]
        return columns.astype(np.float32, copy=False)

    def probabilities(self, scores: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return the probabilities, 0..1, of scores, both [N, K, cells]."""
        if self.activation is Activation.SOFTMAX:
            powers = np.exp(scores - scores.max(1, keepdims=True))
            return np.asarray(powers / powers.sum(1, keepdims=True))
        if self.activation is Activation.LOG:
            return np.exp(np.minimum(scores, 0))
        if self.activation is Activation.SIGMOID_LOGIT:
            return np.asarray(np.exp(-np.logaddexp(np.float32(0), -scores)))
        return np.clip(scores, 0, 1)

    def log_probabilities(self, scores: npt.NDArray[np.float32], column: int) -> Doubles:
        """Return log p of a class, [N, cells] in nats, from scores [N, K, cells].

        At least log 1e-12 for scores that are probabilities already.
        """
        own = scores[:, column]
        if self.activation is Activation.SOFTMAX:
            most = scores.max(1)
            log = own - most - np.log(np.exp(scores - most[:, None]).sum(1))
        elif self.activation is Activation.SIGMOID_LOGIT:
            log = -np.logaddexp(np.float32(0), -own)
        elif self.activation is Activation.LOG:
            log = np.minimum(own, 0)
        else:
            log = np.log(np.clip(own, SMALLEST, 1))
        return np.asarray(log, np.float64)

    def log_derivative(
        self, scores: npt.NDArray[np.float32], column: int
    ) -> npt.NDArray[np.float32]:
        """Return d log p / d scores of a class at each cell, [N, K, cells] like the scores."""
        own = scores[:, column]
        if self.activation is Activation.SOFTMAX:  # d log p_c / d z_k = e_ck - p_k
            found = -self.probabilities(scores)
            found[:, column] += 1
            return found
        found = np.zeros(scores.shape, np.float32)
        if self.activation is Activation.SIGMOID_LOGIT:
            found[:, column] = np.exp(-np.logaddexp(np.float32(0), own))
        elif self.activation is Activation.LOG:
            found[:, column] = own <= 0
        else:  # 0 if it cannot be a probability
            found[:, column] = ((own >= SMALLEST) & (own <= 1)) / np.maximum(own, SMALLEST)
        return found

    def cotangent(
        self,
        values: npt.NDArray[Any],
        cells: npt.NDArray[np.intp],
        of_scores: npt.NDArray[np.float32],
    ) -> npt.NDArray[np.float32]:
        """Scatter [N, K, cells] of some cells into the shape of the values, 0 elsewhere."""
        whole = np.zeros(values.shape, np.float32)
        if self.last:
            whole.reshape(len(values), -1, self.classes)[:, cells] = np.moveaxis(of_scores, 1, 2)
        else:
            whole.reshape(len(values), self.classes, -1)[:, :, cells] = of_scores
        return whole

    def write(self, head: Head, cells: npt.NDArray[np.intp], column: int) -> str:
        """Append nodes for the mean log p of a class over some cells, [N, 1]; return the name."""
        scores = head.op("Cast", self.name, to=1)
        shape = (0, -1, self.classes) if self.last else (0, self.classes, -1)
        rows = head.op("Reshape", scores, head.constant(shape, np.int64))
        index = head.constant(cells, np.int64)
        rows = head.op("Gather", rows, index, axis=1 if self.last else 2)
        if not self.last:  # only on the last axis does Softmax mean the same in all opsets
            rows = head.op("Transpose", rows, perm=[0, 2, 1])
        if self.activation is Activation.SOFTMAX:
            rows = head.op("LogSoftmax", rows, axis=2)
        log = head.op("Gather", rows, head.constant([column], np.int64), axis=2)
        if self.activation is Activation.SIGMOID_LOGIT:
            log = head.log_sigmoid(log)
        elif self.activation is Activation.LOG:  # min(x, 0)
            log = head.op("Neg", head.op("Relu", head.op("Neg", log)))
        elif self.activation is not Activation.SOFTMAX:
            one = head.constant(1)
            most = head.op("Sub", one, head.op("Relu", head.op("Sub", one, log)))
            log = head.log(most, SMALLEST)
        flat = head.op("Reshape", log, head.constant([0, 1, -1], np.int64))
        mean = head.op("GlobalAveragePool", flat)
        return head.op("Reshape", mean, head.constant([-1, 1], np.int64))

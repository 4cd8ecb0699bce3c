"""Custom objectives written as ONNX nodes, appended to any tensor of the model."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ibisa_onnx.models.head import Head
from ibisa_onnx.targets.base import Doubles, Objective, Raw

if TYPE_CHECKING:
    import onnx


class OnnxObjective(Objective):
    """Custom objective computed by ONNX nodes, which are differentiated together with the model.

    Parameters
    ----------
    write
        Appends nodes to the model's graph with a `Head`, and returns the name of a float32 tensor
        [N] or [N, 1]: a log-probability, or a value that behaves like one.
    caption
        Short text for people, also part of the tensor's name; objectives explained together need
        different ones.

    Examples
    --------
    >>> def log_sigmoid_of_first_logit(head):
    ...     return head.log_sigmoid(head.column(head.rows("logits"), 0))
    >>> objective = OnnxObjective(log_sigmoid_of_first_logit, "first class")
    """

    def __init__(self, write: Callable[[Head], str], caption: str) -> None:
        self._write, self.caption = write, caption
        self._name = f"ibisa_target/{caption}"

    @property
    def outputs(self) -> tuple[str, ...]:
        """The tensor that the nodes make."""
        return (self._name,)

    def score(self, raw: Raw) -> Doubles:
        """Return what the nodes computed, float64 [N]."""
        return raw[self._name].reshape(-1).astype(np.float64)

    def vjp(self, raw: Raw) -> dict[str, npt.NDArray[np.float32]]:
        """Return ones: the nodes are differentiated with the model."""
        return {self._name: np.ones(raw[self._name].shape, np.float32)}

    def to_onnx(self, graph: onnx.GraphProto) -> str:
        """Append the nodes."""
        head = Head(graph)
        return head.named(self._write(head), self._name)

    def describe(self) -> dict[str, Any]:
        """Return the caption."""
        return {"kind": "nodes", "caption": self.caption}

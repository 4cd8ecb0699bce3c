"""What is explained: the objective, one scalar a picture, and the target that it was made from.

A target is what a user wrote: a class, `top:3`, an anchor of a detector. It binds to the model's
first answer to a picture and gives objectives. All that comes after (gradients, batches, the
fidelity check, the metrics) knows objectives alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from ibisa_onnx.errors import GradientError

if TYPE_CHECKING:
    import onnx

    from ibisa_onnx.targets.reader import OutputReader

Raw = Mapping[str, npt.NDArray[Any]]
"""Values of a model's outputs by name, a row for each image, in the model's own dtypes."""
Doubles = npt.NDArray[np.float64]


class Objective(ABC):
    """What should be kept of a picture's answer, as one scalar a picture.

    A subclass needs `outputs`, `score` and `describe`, and either `vjp` or `to_onnx`.
    """

    @property
    @abstractmethod
    def outputs(self) -> tuple[str, ...]:
        """The tensors that it reads: outputs, inner tensors, or the one that `to_onnx` makes."""

    @abstractmethod
    def score(self, raw: Raw) -> Doubles:
        """Return what should be kept, [N] in nats: the logarithm of a probability, or like one."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Return a JSON record of it: `kind`, `caption` (for people), and what else there is."""

    def probability(self, raw: Raw) -> Doubles:
        """Return the exponential of the score, [N]: what maps and metrics are measured in."""
        return np.exp(self.score(raw))

    def vjp(self, raw: Raw) -> dict[str, npt.NDArray[np.float32]]:
        """Return the derivative of each row's score by each output it reads, in its shape.

        Raises
        ------
        GradientError
            There is none: it is explained by forward passes alone.
        """
        raise GradientError(f"{type(self).__name__} has no derivative")

    def readout(self, raw: Raw) -> Doubles:
        """Return what the fidelity check compares, [N, ...], in units of probability."""
        return self.probability(raw)[:, None]

    def warnings(self, raw: Raw) -> tuple[str, ...]:
        """Return what a user must know of one picture's answer, values [1, ...]."""
        return ()

    def to_onnx(self, graph: onnx.GraphProto) -> str | None:
        """Write the score as nodes behind the graph's outputs or inner tensors.

        Returns the name of the tensor float32 [N, 1]; None where it lives only in Python.
        """
        return None

    @property
    def family(self) -> Hashable:
        """What a prepared gradient depends on: objectives of one family share it."""
        return type(self), self.outputs


@runtime_checkable
class TargetSpec(Protocol):
    """What a user asks to have explained; not yet tied to a picture."""

    def outputs(self, reader: OutputReader) -> tuple[str, ...]:
        """Name the outputs of the model that `bind` needs to see."""

    def bind(self, raw: Raw, reader: OutputReader) -> list[Objective]:
        """Return the objectives that it means for one picture.

        Parameters
        ----------
        raw
            The first answer: values [1, ...] of those outputs.
        reader
            Of the model, its labels, and which output holds class scores.

        Raises
        ------
        TargetError
            There is nothing of the kind in this answer.
        OutputError
            The model's outputs are of another kind.
        """


class FixedTarget:
    """A target that is an objective already, the same for every picture."""

    def __init__(self, objective: Objective) -> None:
        self.objective = objective

    def outputs(self, reader: OutputReader) -> tuple[str, ...]:
        """Name what it reads."""
        return self.objective.outputs

    def bind(self, raw: Raw, reader: OutputReader) -> list[Objective]:
        """Return it."""
        return [self.objective]

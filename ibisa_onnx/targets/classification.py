"""Classes as targets: what names and indices stand for, and the objective of one class."""

from __future__ import annotations

import numbers
import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ibisa_onnx.errors import OutputError, TargetError
from ibisa_onnx.targets.base import (
    Answer,
    Context,
    Doubles,
    Kind,
    Objective,
    Raw,
    Reader,
    TargetSpec,
)
from ibisa_onnx.targets.class_scores import Activation, ClassScores, tie
from ibisa_onnx.targets.labels import find_label, spelt_index

if TYPE_CHECKING:
    import onnx


NAME, UNKNOWN = "classifier", "unknown"
VALUES = 'ValueTarget("raise", NAME, "0,:")'
"""Target that any model supports: a value of its outputs."""


@dataclass(frozen=True)
class ClassObjective(Objective):
    """Log-probability of one class.

    Attributes
    ----------
    reading
        Output that holds the class scores, and how it is read.
    index, label
        Class index and class name; `label` is None if unknown.
    """

    reading: ClassScores
    index: int
    label: str | None = None

    @property
    def outputs(self) -> tuple[str, ...]:
        """The output that holds the class scores."""
        return (self.reading.name,)

    @property
    def family(self) -> Hashable:
        """Key of the reading: one gradient serves all classes."""
        return type(self), self.reading

    def probability(self, raw: Raw) -> Doubles:
        """Return the class probability, float64 [N] in 0..1."""
        return self.readout(raw)[:, self.index]

    def score(self, raw: Raw) -> Doubles:
        """Return log p, float64 [N] in nats."""
        return self.reading.log_probabilities(raw[self.reading.name])[:, self.index]

    def vjp(self, raw: Raw) -> dict[str, npt.NDArray[np.float32]]:
        """Return d log p / d scores."""
        name = self.reading.name
        return {name: self.reading.log_probability_vjp(raw[name], self.index)}

    def readout(self, raw: Raw) -> Doubles:
        """Return the probabilities of all classes, float64 [N, K]."""
        return self.reading.probabilities(raw[self.reading.name])

    def warnings(self, raw: Raw) -> tuple[str, ...]:
        """Return a warning if all classes are equally likely."""
        return tie(self.readout(raw)[0])

    def to_onnx(self, graph: onnx.GraphProto) -> str:
        """Append nodes that compute log p."""
        return self.reading.write_log_probability(graph, self.index)

    def describe(self) -> dict[str, Any]:
        """Return the output, the class, and how it was read."""
        return {
            "kind": "class",
            "caption": f"{self.label} ({self.index})" if self.label else f"class {self.index}",
            "output": self.reading.name,
            "index": self.index,
            "label": self.label,
            "activation": str(self.reading.activation),
        }


@dataclass(frozen=True)
class LogitObjective(ClassObjective):
    """Raw score of one class before the softmax, the objective of the Grad-CAM paper."""

    def score(self, raw: Raw) -> Doubles:
        """Return the raw score, float64 [N]."""
        return self.reading.scores(raw[self.reading.name])[:, self.index]

    def vjp(self, raw: Raw) -> dict[str, npt.NDArray[np.float32]]:
        """Return 1 for the class, 0 for all others."""
        values = raw[self.reading.name]
        cotangent = np.zeros((len(values), self.reading.classes), np.float32)
        cotangent[:, self.index] = 1
        return {self.reading.name: self.reading.vjp(cotangent).reshape(values.shape)}


@dataclass(frozen=True)
class ClassTarget:
    """Target one or several classes of a classifier.

    Attributes
    ----------
    wanted
        None for the predicted class; a class index, as int or digits; "top:3" for the three most
        likely classes; otherwise a label.

    Raises
    ------
    TargetError
        When bound: the model has no such class, or its labels are unknown.
    OutputError
        When bound: no output holds class scores, or they are NaN or infinite.

    Examples
    --------
    >>> ClassTarget("top:3")
    ClassTarget(wanted='top:3')
    """

    wanted: str | int | np.integer[Any] | None = None

    def outputs(self, reader: Reader) -> tuple[str, ...]:
        """Return the names of the tensors that may hold the class scores."""
        return tuple(reader.candidates())

    def bind(self, raw: Raw, context: Context) -> list[Objective]:
        """Return an objective for each class, most likely first."""
        reader = context.reader
        reading = reader.read(raw)
        probabilities = reading.probabilities(raw[reading.name])[0]
        indices = choose(self.wanted, probabilities, reader.labels)
        return [ClassObjective(reading, index, reader.label(index)) for index in indices]


class ClassifierKind(Kind):
    """Classifier: one score per class; "unknown" if no output can hold class scores.

    Parameters
    ----------
    reader
        Finds and reads the class scores.
    """

    name = NAME
    asks: tuple[str, ...] = ("target=CLASS", "target='top:3'", "ContrastTarget(CLASS, CLASS)")

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        try:
            found = reader.candidates()
        except OutputError as error:  # raised again once a class is requested
            why, _, _ = error.problem.partition(":")
            self.name, self.asks, self.reason = UNKNOWN, (VALUES,), why
            return
        count = reader.declared_classes
        of = f"each of {count.classes} classes" if count else "each class"
        which = found[0] if len(found) == 1 else f"one of {', '.join(found)}"
        self.reason = f"{which} contains one score for {of}"

    def outputs(self) -> tuple[str, ...]:
        """Return the names of the tensors that may hold the class scores."""
        return tuple(self._reader.candidates())

    def target(self, wanted: str | int | None) -> TargetSpec:
        """Return the target of a class index or label; None for the predicted class."""
        return ClassTarget(wanted)

    def answers(self, raw: Raw, context: Context) -> list[Answer]:
        """Return all classes, most likely first."""
        reading = self._reader.read(raw)
        probabilities = reading.probabilities(raw[reading.name])[0]
        order = np.argsort(-probabilities, kind="stable")
        labels = [self._reader.label(int(index)) for index in order]
        return [
            Answer(label or f"class {index}", float(probabilities[index]), int(index), label)
            for index, label in zip(order, labels, strict=True)
        ]


def logit_objective(objective: Objective, logits: str) -> Objective:
    """Return the objective that reads the logits in place of their softmax."""
    if not isinstance(objective, ClassObjective):
        return objective
    reading = objective.reading
    if logits != reading.name:
        kind = Activation.SIGMOID_LOGIT if reading.one_score else Activation.SOFTMAX
        reading = replace(reading, name=logits, activation=kind, quantisation=None)
    return LogitObjective(reading, objective.index, objective.label)


def count(target: object) -> int:
    """Return how many classes a target stands for: 3 for "top:3", else 1."""
    top = _top(target) if isinstance(target, str) else None
    return int(top[1]) if top else 1


def _top(text: str) -> re.Match[str] | None:
    return re.fullmatch(r"top:([0-9]{1,18})", text.strip().lower())


def choose(
    target: str | int | np.integer[Any] | None,
    probabilities: npt.NDArray[np.float64],
    labels: Sequence[str] | None,
) -> list[int]:
    """Return the class indices that a target stands for.

    Parameters
    ----------
    target
        None for the predicted class; a class index, as int or digits; "top:3" for the three most
        likely classes; otherwise a label.
    probabilities
        float64 [K], of the unmasked image.
    labels
        Class names by index; None if unknown.

    Raises
    ------
    TargetError
        There is no such class.
    """
    classes = len(probabilities)
    if target is None:
        return [int(probabilities.argmax())]
    if not isinstance(target, str | numbers.Integral) or isinstance(target, bool):
        raise TargetError(
            f"target is {target!r} ({type(target).__name__}); pass a class index, a label or top:3"
        )
    text = str(target).strip()
    if text.lower().startswith("top:"):
        if not _top(text):
            raise TargetError(f"target {text!r} must be like top:3")
        wanted = count(text)
        if not 1 <= wanted <= classes:
            raise TargetError(
                f"target {text!r}: the model has {classes} classes; pass top:1 to top:{classes}"
            )
        return [int(index) for index in np.argsort(-probabilities, kind="stable")[:wanted]]
    index = spelt_index(text, labels)
    if index is not None:
        if 0 <= index < classes:
            return [index]
        if labels is None or text not in labels:  # a label may be a number, such as 90 degrees
            raise TargetError(f"target {text} is out of range: classes are 0 to {classes - 1}")
    if labels is None:
        raise TargetError(
            f"target {text!r} is a name, but the model's labels are unknown; "
            "pass labels=FILE, or a class index"
        )
    return [find_label(labels, text)]

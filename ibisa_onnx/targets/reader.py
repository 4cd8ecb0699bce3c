"""How one model's output is read: which one, as what, and what its classes are called.

Shapes and names say much of it, and the values of the first picture settle the rest. What
a reading is, is in `class_scores`, how outputs are told apart in `discovery`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy.typing as npt

from ibisa_onnx.models.base import ImageModel
from ibisa_onnx.targets.class_scores import (
    ClassScores,
    check_scores,
    read_activation,
    read_output,
)
from ibisa_onnx.targets.discovery import candidates, find_scores
from ibisa_onnx.targets.labels import check_labels, choose_labels, known_labels, read_labels

Labels = Sequence[str] | str | os.PathLike[str]
"""Names of the classes by index, or a file of them."""


class OutputReader:
    """Reads a model's class scores; what was guessed from one picture is corrected by a later one.

    Parameters
    ----------
    model
        Its signature, its graph and its metadata are asked.
    output
        The output's name; None: to be found.
    activation
        What the user says that the values are; None: to be told apart.
    labels
        None: from the model's metadata, or a file beside it.

    Raises
    ------
    OutputError
        There is no such activation.
    TargetError
        The labels cannot be read.
    """

    def __init__(
        self,
        model: ImageModel,
        output: str | None,
        activation: str | None,
        labels: Labels | None,
    ) -> None:
        if activation is not None:
            read_activation(activation)
        self._model, self._wanted, self._activation = model, output, activation
        self._given = None if labels is None else _as_labels(labels)
        self._known = known_labels(model.metadata, model.folder) if labels is None else []
        first, _ = choose_labels(self._known, None)
        self.labels = first.labels if first else self._given
        self.output: ClassScores | None = None
        self.warnings: list[str] = []

    def candidates(self) -> list[str]:
        """Name the outputs to be computed: the one that is read, or all that it may be."""
        wanted = self.output.name if self.output else self._wanted
        return candidates(self._model.signature.outputs, wanted)

    def read(self, raws: Mapping[str, npt.NDArray[Any]]) -> ClassScores:
        """Tell which output holds class scores, and how, from the candidates' values.

        Raises
        ------
        OutputError
            None does, or they are NaN or infinite.
        TargetError
            The user's labels are not as many as the classes.
        """
        if self.output is not None:
            raw = raws[self.output.name]
            check_scores(self.output.name, raw)
            if not self.output.contradicts(raw):
                return self.output
            self.warnings.append(f"that was wrong: {self.output.name} is read anew from here on")
        name = find_scores(raws, self._model.signature.outputs, self._wanted)
        proto = self._model.proto()
        graph = None if proto is None else proto.graph
        output = read_output(name, raws[name], graph=graph, activation=self._activation)
        self._settle_labels(output.classes)
        if output.guess:
            self.warnings.append(output.guess)
        self.output = output
        return output

    def label(self, index: int) -> str | None:
        """Return what a class is called."""
        return self.labels[index] if self.labels else None

    def _settle_labels(self, classes: int) -> None:
        """Refuse labels that do not fit, if the user gave them; else take the first that do."""
        if self._given is not None:
            check_labels(self._given, classes)
            return
        chosen, warnings = choose_labels(self._known, classes)
        self.warnings += warnings
        self.labels = chosen.labels if chosen else None


def _as_labels(labels: Labels) -> tuple[str, ...]:
    """Read labels from where they are."""
    return read_labels(labels) if isinstance(labels, str | os.PathLike) else tuple(labels)

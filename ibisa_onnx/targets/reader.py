"""How a model's output is read: which one, as what, and the names of its classes.

Shapes and names determine much of it, the values for the first image the rest. `class_scores`
defines the readings, `score_search` finds the tensor of class scores, and `discovery` detects other
kinds of models.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ibisa_onnx.errors import TargetError
from ibisa_onnx.limits import Limits
from ibisa_onnx.models.base import ImageModel
from ibisa_onnx.targets.class_scores import (
    Activation,
    ClassScores,
    check_scores,
    read_activation,
    read_output,
)
from ibisa_onnx.targets.facts import ModelFacts
from ibisa_onnx.targets.labels import (
    BINARY,
    ClassCount,
    KnownLabels,
    checked_labels,
    choose_labels,
    known_labels,
    read_labels,
)
from ibisa_onnx.targets.score_search import Candidate, ScoreSearch

if TYPE_CHECKING:
    import onnx

    from ibisa_onnx.preprocessing.spec import Preprocessing
    from ibisa_onnx.targets.base import Kind

_USUAL = "default for the two classes of a single score"

Labels = Sequence[str] | str | os.PathLike[str]
"""Class names by index, or a file that contains them."""


class OutputReader:
    """Reads a model's class scores; a later image may correct what was inferred from the first.

    Parameters
    ----------
    model
        The model, of which signature, graph and metadata are read.
    output
        Name of the output; None to find it.
    activation
        Activation of the output's values; None to infer it.
    labels
        Class names, or a file of them; None for those of the metadata, or of a file beside the
        model.
    preprocessing
        Preprocessing of the run on noise that helps to detect the kind; None to run nothing.
    kind
        Kind of the model; None to detect it.
    facts
        What is already known about the model; None for nothing.

    Raises
    ------
    OutputError
        The activation is unknown.
    TargetError
        The labels cannot be read.
    """

    def __init__(
        self,
        model: ImageModel,
        output: str | None,
        activation: str | None,
        labels: Labels | None,
        preprocessing: Preprocessing | None = None,
        kind: str | None = None,
        facts: ModelFacts | None = None,
    ) -> None:
        if activation is not None:
            read_activation(activation)
        self._model, self._wanted, self._activation = model, output, activation
        self._kind = kind
        self._given = None if labels is None else _as_labels(labels, model.limits)
        self.facts = facts or ModelFacts(model, preprocessing, output, self._given)
        self._found_kind: Kind | None = None
        self._finding = threading.RLock()
        self._known = known_labels(model.metadata, model.folder) if labels is None else []
        first, _ = choose_labels(self._known, None)
        self.labels = first.labels if first else self._given
        self.output: ClassScores | None = None
        self._warnings: list[str] = []

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings about how the outputs are read."""
        found = self._found_kind  # another thread may reset it
        return (*(() if found is None else found.warnings), *self._warnings)

    @property
    def kind(self) -> Kind:
        """Kind of the model.

        Specifying an output or an activation implies class scores.

        Raises
        ------
        OptionError
            No output fits the kind that the caller specified.
        """
        with self._finding:
            if self._found_kind is None:
                from ibisa_onnx.targets.classification import NAME
                from ibisa_onnx.targets.discovery import discover

                scores = self._wanted is not None or self._activation is not None
                wanted = self._kind or (NAME if scores else None)
                self._found_kind = discover(self.facts, self, wanted)
            return self._found_kind

    def see(self, raw: Mapping[str, npt.NDArray[Any]]) -> None:
        """Infer a function's kind from its outputs for an image, values [1, ...]."""
        with self._finding:
            if self.facts.learn(raw):
                self._found_kind = None

    @property
    def given_labels(self) -> tuple[tuple[str, ...], ...]:
        """The caller's labels, or else all labels of the model and of files beside it."""
        known = tuple(each.labels for each in self._known)
        return known if self._given is None else (self._given,)

    def labels_for(self, classes: int | None) -> tuple[str, ...] | None:
        """Return names for this many classes, if any are known.

        With `classes` None, any number of names will do.

        Raises
        ------
        TargetError
            The number of the caller's labels differs.
        """
        if self._given is not None:
            return self._given if classes is None else ClassCount(classes).fit(self._given)
        fitting = (e.labels for e in self._known if classes in (None, len(e.labels)))
        return next(filter(None, fitting), None)

    def candidates(self) -> list[str]:
        """Return the names of the tensors to compute: the one that is read, or all candidates.

        They are outputs or inner tensors.
        """
        return [self.output.name] if self.output else [each.name for each in self._candidates]

    def read(self, raws: Mapping[str, npt.NDArray[Any]]) -> ClassScores:
        """Determine from their values which candidate holds class scores, and how to read it.

        Raises
        ------
        OutputError
            No candidate holds class scores, or they are NaN or infinite.
        TargetError
            The number of the caller's labels differs from the number of classes.
        """
        if self.output is not None:
            raw = raws[self.output.name]
            check_scores(self.output.name, raw)
            if not self.output.contradicts(raw):
                return self.output
            self._warnings.append(
                f"values of output {self.output.name} contradict the activation assumed before; "
                "it is read differently from now on"
            )
            name, notes = self.output.name, []
        else:
            chosen, warning = self._search.choose(self._candidates, raws)
            name, notes = chosen.name, [chosen.note, warning]
        output = read_output(name, raws[name], graph=self._graph, activation=self._activation)
        known = self._settle_labels(ClassCount(output.classes, one_score=output.one_score))
        if known and output.one_score and output.activation is Activation.SIGMOID_LOGIT:
            output = replace(output, guess="")  # two labels confirm that there are two classes
        self._warnings += filter(None, [*notes, output.guess])
        self.output = output
        return output

    def check(self) -> None:
        """Raise `OutputError` if the caller specified a tensor that does not exist."""
        self._search.check_wanted()

    def declared_labels(self) -> tuple[KnownLabels | None, list[str]]:
        """Return the labels that match according to shapes and graph, and warnings about others.

        Raises
        ------
        TargetError
            The number of the caller's labels differs from the number of classes.
        """
        count = self.declared_classes
        if self._given is not None:
            labels = self._given if count is None else count.fit(self._given)
            return KnownLabels("given", labels), []
        return choose_labels(self._found, count)

    @property
    def declared_classes(self) -> ClassCount | None:
        """Number of classes according to shapes and graph; None if these do not determine it."""
        return self._search.declared()

    @property
    def usual_labels(self) -> KnownLabels | None:
        """Default class names; None if there are none."""
        count = self.declared_classes
        return KnownLabels(_USUAL, BINARY) if count is not None and count.one_score else None

    def label(self, index: int) -> str | None:
        """Return the name of a class."""
        return self.labels[index] if self.labels else None

    def _settle_labels(self, count: ClassCount) -> bool:
        """Check the caller's labels, or choose the first known ones that match.

        Returns whether any labels were found.
        """
        if self._given is not None:
            self.labels = count.fit(self._given)
            return True
        chosen, warnings = choose_labels(self._found, count)
        self._warnings += warnings
        usual = BINARY if count.one_score else None
        self.labels = chosen.labels if chosen else usual
        return chosen is not None

    @property
    def _found(self) -> list[KnownLabels]:
        return [*self._known, *self._search.labels()]

    @property
    def _graph(self) -> onnx.GraphProto | None:
        return self.facts.graph

    @cached_property
    def _search(self) -> ScoreSearch:
        trusted = self._activation is not None
        return ScoreSearch(self._model.signature, self._graph, self._wanted, trusted=trusted)

    @cached_property
    def _candidates(self) -> list[Candidate]:
        return self._search.candidates()


def _as_labels(labels: Labels, limits: Limits | None) -> tuple[str, ...]:
    """Return labels as a tuple, read from a file if need be."""
    if isinstance(labels, str | os.PathLike):
        return read_labels(labels, limits)
    if isinstance(labels, np.ndarray) and labels.ndim != 1:
        raise TargetError(f"labels is an array of shape {list(labels.shape)}; pass a list of names")
    return checked_labels(tuple(labels), "labels=")

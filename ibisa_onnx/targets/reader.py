"""How one model's output is read: which one, as what, and what its classes are called.

Shapes and names say much of it, and the values of the first picture settle the rest. What
a reading is, is in `class_scores`, which tensor holds scores in `score_search`, and what other
kinds of models there are in `discovery`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

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

_USUAL = "usual for the two classes of a single score"

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
    preprocessing
        How pictures are brought to the model, so that it can be run on noise where shapes do not
        tell its kind; None: it is not.
    kind
        What kind of model it is, as the user says; None: to be told.
    facts
        What is known of the model already; None: nothing.

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
        """What a user must know of how outputs are read."""
        found = self._found_kind  # which another thread may take away
        return (*(() if found is None else found.warnings), *self._warnings)

    @property
    def kind(self) -> Kind:
        """What kind of model it is.

        Who names the output or says how scores are read has class scores in mind.

        Raises
        ------
        OptionError
            The user said a kind that it cannot be.
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
        """Learn the kind of a function from all that it says of a picture, values [1, ...]."""
        with self._finding:
            if self.facts.learn(raw):
                self._found_kind = None

    @property
    def given_labels(self) -> tuple[tuple[str, ...], ...]:
        """The user's names of the classes, or else all that the model and files beside it give."""
        known = tuple(each.labels for each in self._known)
        return known if self._given is None else (self._given,)

    def labels_for(self, classes: int | None) -> tuple[str, ...] | None:
        """Return names for so many classes, where somebody gave as many.

        `classes` None: nothing tells how many there are, and any names will do.

        Raises
        ------
        TargetError
            The user's labels are not as many.
        """
        if self._given is not None:
            return self._given if classes is None else ClassCount(classes).fit(self._given)
        fitting = (e.labels for e in self._known if classes in (None, len(e.labels)))
        return next(filter(None, fitting), None)

    def candidates(self) -> list[str]:
        """Name the tensors to be computed: the one that is read, or all that it may be.

        These are outputs, or tensors inside the model.
        """
        return [self.output.name] if self.output else [each.name for each in self._candidates]

    def read(self, raws: Mapping[str, npt.NDArray[Any]]) -> ClassScores:
        """Tell which of the candidates holds class scores, and how, from their values.

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
            self._warnings.append(f"that was wrong: {self.output.name} is read anew from here on")
            name, notes = self.output.name, []
        else:
            chosen, warning = self._search.choose(self._candidates, raws)
            name, notes = chosen.name, [chosen.note, warning]
        output = read_output(name, raws[name], graph=self._graph, activation=self._activation)
        known = self._settle_labels(ClassCount(output.classes, one_score=output.one_score))
        if known and output.one_score and output.activation is Activation.SIGMOID_LOGIT:
            output = replace(output, guess="")  # who names two classes says that there are two
        self._warnings += filter(None, [*notes, output.guess])
        self.output = output
        return output

    def check(self) -> None:
        """Raise `OutputError` where the user named a tensor that the model has not."""
        self._search.check_wanted()

    def declared_labels(self) -> tuple[KnownLabels | None, list[str]]:
        """Return the labels that fit as far as shapes and graph tell, and warnings of others.

        Raises
        ------
        TargetError
            The user's do not fit.
        """
        count = self.declared_classes
        if self._given is not None:
            labels = self._given if count is None else count.fit(self._given)
            return KnownLabels("given", labels), []
        return choose_labels(self._found, count)

    @property
    def declared_classes(self) -> ClassCount | None:
        """How many classes there are by shapes and graph; None where these do not say."""
        return self._search.declared()

    @property
    def usual_labels(self) -> KnownLabels | None:
        """What the classes are called where nobody named them; None where that says nothing."""
        count = self.declared_classes
        return KnownLabels(_USUAL, BINARY) if count is not None and count.one_score else None

    def label(self, index: int) -> str | None:
        """Return what a class is called."""
        return self.labels[index] if self.labels else None

    def _settle_labels(self, count: ClassCount) -> bool:
        """Refuse labels that do not fit, if the user gave them; else take the first that do.

        Returns whether anybody named the classes.
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
    """Read labels from where they are."""
    if isinstance(labels, str | os.PathLike):
        return read_labels(labels, limits)
    return checked_labels(tuple(labels), "labels=")

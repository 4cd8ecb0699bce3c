"""Regression models, recognised by their metadata or the names of their outputs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ibisa_onnx.errors import TargetError
from ibisa_onnx.targets.base import Answer, Context, Kind, Raw, TargetSpec, check_numbers
from ibisa_onnx.targets.facts import ModelFacts
from ibisa_onnx.targets.labels import known_labels
from ibisa_onnx.targets.output_kinds import VALUE, OutputKinds, is_tensor
from ibisa_onnx.targets.value import ValueTarget, last_part
from ibisa_onnx.targets.value_objective import Direction

if TYPE_CHECKING:
    from ibisa_onnx.models.signature import TensorInfo

DIRECTIONS = ('ValueTarget("keep")', 'ValueTarget("raise")', 'ValueTarget("lower")')
"""Supported directions of a value."""
_MOST = 16  # values listed individually
_NAMED = 8  # labels in an error
_REGRESSION = frozenset({"regression", "regress"})


class ValueKind(Kind):
    """Regression: a model that returns values.

    Parameters
    ----------
    outputs
        Names of the outputs that hold the values.
    reason
        How the outputs were recognised.
    labels
        Names of the values, if there are as many; otherwise empty.
    """

    name = "regression"
    family = "regressions"
    asks: tuple[str, ...] = DIRECTIONS

    def __init__(self, outputs: tuple[str, ...], reason: str, labels: tuple[str, ...] = ()) -> None:
        self._outputs, self.reason, self._labels = outputs, reason, labels

    def outputs(self) -> tuple[str, ...]:
        """Return the names of the outputs that hold the values."""
        return self._outputs

    def called(self, output: str) -> str:
        """Return the name of an output's values."""
        return last_part(output)

    def target(self, wanted: str | int | None) -> TargetSpec:
        """Return the target that a word stands for.

        None and "keep" explain what holds the value where it is, which is meaningful whether the
        image raises or lowers it; "raise" and "lower" one direction only; an output name, a label
        or an index selects a value.
        """
        first = self._outputs[0]
        if wanted is None or wanted in tuple(Direction):
            return ValueTarget(Direction(wanted or Direction.KEEP), first)
        word = str(wanted)
        if word in self._outputs:
            return ValueTarget(output=word)
        if word in self._labels:
            return ValueTarget(output=first, index=self._labels.index(word), label=word)
        if re.fullmatch(r"[\d:,\s-]+", word):
            return ValueTarget(output=first, index=word)
        raise TargetError(
            f"target {word!r} is not a value of this model; choose from: {', '.join(self._words())}"
        )

    def answers(self, raw: Raw, context: Context) -> list[Answer]:
        """Return all values; if there are many, the smallest, the median and the largest."""
        for name in self._outputs:
            check_numbers(raw[name], name, finite=True)
        return [each for name in self._outputs for each in self._answers(name, raw[name][0])]

    def _answers(self, output: str, values: npt.NDArray[Any]) -> Iterator[Answer]:
        flat, name = np.asarray(values, np.float64).ravel(), self.called(output)
        if flat.size > _MOST:
            for word, of in (("least", np.min), ("median", np.median), ("greatest", np.max)):
                yield _answer(f"{word} {name}", float(of(flat)))
            return
        labels = self._labels if len(self._labels) == flat.size else ()
        for place, (index, value) in enumerate(np.ndenumerate(values)):
            if labels:
                yield _answer(labels[place], float(value), place, labels[place])
            else:
                written = f"[{','.join(map(str, index))}]" if flat.size > 1 else ""
                yield _answer(f"{name}{written}", float(value), place)

    def _words(self) -> list[str]:
        words = [*Direction]
        if len(self._outputs) > 1:
            words += self._outputs
        return [*words, *self._labels[:_NAMED], "an index such as 0"]


def _answer(
    caption: str, value: float, index: int | None = None, label: str | None = None
) -> Answer:
    """Return a value as an entry of the prediction, marked as not being a probability."""
    return Answer(caption, value, index, label, details={"unit": "value"})


def find(facts: ModelFacts) -> ValueKind | None:
    """Recognise a regression by its metadata, or by the names of outputs with a single value.

    A model that also returns class scores is not a regression.
    """
    kinds = OutputKinds(facts.outputs, facts.batch, facts.makers)
    task = facts.metadata.get("task", "").strip().lower()
    if task in _REGRESSION:
        floats = tuple(each.name for each in facts.outputs if each.dtype.startswith("float"))
        if floats:
            return _regression(facts, floats, f"its task, according to the metadata, is {task}")
    scores = [each for each in facts.outputs if kinds.may_hold_scores(each)]
    values = [each for each in scores if _is_value(each, kinds, facts)]
    if not values or len(values) < len(scores):
        return None
    names = tuple(each.name for each in values)
    how = "is a single value, by its name" if len(names) == 1 else "are values, by their names"
    return _regression(facts, names, f"{', '.join(names)} {how}")


def find_told(facts: ModelFacts) -> ValueKind | None:
    """Return the regression for `kind="regression"`: all float outputs are values."""
    found = find(facts)
    names = tuple(each.name for each in facts.outputs if each.dtype.startswith("float"))
    return found or (_regression(facts, names, "kind=regression was specified") if names else None)


def _is_value(output: TensorInfo, kinds: OutputKinds, facts: ModelFacts) -> bool:
    """Return whether an output is a single value, judging by its name."""
    if not is_tensor(output) or not output.dtype.startswith("float"):
        return False
    if not kinds.doubt_by_name(output.name, output.name, single=True).startswith(VALUE):
        return False
    shape = facts.shape(output.name)
    return shape is not None and int(np.prod(shape[1:])) == 1


def _regression(facts: ModelFacts, names: tuple[str, ...], reason: str) -> ValueKind:
    shape = facts.shape(names[0]) if len(names) == 1 else None
    count = int(np.prod(shape[1:])) if shape else 0
    known = known_labels(facts.metadata, facts.model.folder)
    labels = next((each.labels for each in known if len(each.labels) == count), ())
    return ValueKind(names, reason, labels if count > 1 else ())

"""One answer rather than another: a class against a class, also in one box, region or character.

With the probabilities p and q of the two, what should be kept is log p / (p + q): for two classes
of a softmax that is the log-sigmoid of the difference of their logits. Similarities have a contrast
of their own, in `embedding`.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ibisa_onnx.errors import AbsentTargetError, TargetError
from ibisa_onnx.models.head import Head
from ibisa_onnx.targets.arguments import WordTarget, target_specs
from ibisa_onnx.targets.base import (
    Box,
    Context,
    Doubles,
    FixedTarget,
    Nodes,
    Objective,
    Raw,
    Reader,
    TargetSpec,
)
from ibisa_onnx.targets.boxes import BoxObjective, MatchedObjective
from ibisa_onnx.targets.detection import DetectorKind
from ibisa_onnx.targets.regions import RegionObjective
from ibisa_onnx.targets.segmentation import SegmenterKind
from ibisa_onnx.targets.sequence import RecogniserKind
from ibisa_onnx.targets.text_objectives import CharacterObjective

if TYPE_CHECKING:
    import onnx


_INSTEAD = {
    "similarity": "give like= and unlike=",
    "value": "it is no probability; explain each value alone, without versus=",
}


@dataclass(frozen=True)
class ContrastObjective(Objective):
    """The probability of one answer among two: log p / (p + q).

    Attributes
    ----------
    first, second
        Objectives whose probabilities p and q are.
    """

    first: Objective
    second: Objective

    @property
    def outputs(self) -> tuple[str, ...]:
        """What the first reads, and then what the second reads besides."""
        return tuple(dict.fromkeys((*self.first.outputs, *self.second.outputs)))

    @property
    def nodes(self) -> tuple[Nodes, ...]:
        """What writes the tensors of either."""
        both = (*self.first.nodes, *self.second.nodes)
        return tuple({id(each): each for each in both}.values())

    @property
    def location(self) -> Box | None:
        """Where the first lies."""
        return self.first.location

    @property
    def extent(self) -> float | None:
        """The first's share of the model's input."""
        return self.first.extent

    @property
    def family(self) -> Hashable:
        """Both families."""
        return type(self), self.first.family, self.second.family

    def score(self, raw: Raw) -> Doubles:
        """Return log p / (p + q), [N] in nats."""
        return np.asarray(-np.logaddexp(0, -self._difference(raw)))

    def vjp(self, raw: Raw) -> dict[str, npt.NDArray[np.float32]]:
        """Return its derivative: q / (p + q) times that of log p - log q."""
        with np.errstate(over="ignore"):
            weights = 1 / (1 + np.exp(self._difference(raw)))
        found = {name: np.zeros(raw[name].shape, np.float32) for name in self.outputs}
        for objective, sign in ((self.first, 1), (self.second, -1)):
            for name, each in objective.vjp(_own(objective, raw)).items():
                scale = sign * weights.reshape(-1, *[1] * (each.ndim - 1))
                found[name] += (scale * each).astype(np.float32)
        return found

    def to_onnx(self, graph: onnx.GraphProto) -> str | None:
        """Write the score behind the nodes of both; None where either lives only in Python."""
        nodes, constants = len(graph.node), len(graph.initializer)
        written = [each.to_onnx(graph) for each in (self.first, self.second)]
        first, second = written
        if first is None or second is None:
            del graph.node[nodes:], graph.initializer[constants:]
            return None
        head = Head(graph)
        return head.log_sigmoid(head.op("Sub", first, second))

    def warnings(self, raw: Raw) -> tuple[str, ...]:
        """Return what either says."""
        both = (self.first, self.second)
        return tuple(dict.fromkeys(it for each in both for it in each.warnings(_own(each, raw))))

    def describe(self) -> dict[str, Any]:
        """Return both, where the first is, and where the second is if that is elsewhere."""
        first, second = self.first.describe(), self.second.describe()
        place, other = _place(first), _place(second)
        other = {} if other == place else other
        names = [
            said["caption"] if where else said.get("label") or said["caption"]
            for said, where in ((first, place), (second, other))
        ]
        return {
            "kind": "contrast",
            "caption": " rather than ".join(names),
            "output": ", ".join(self.outputs),
            "first": first["caption"],
            "second": second["caption"],
            **place,
            **({"versus": other} if other else {}),
        }

    def _difference(self, raw: Raw) -> Doubles:
        """Return log p - log q, [N]."""
        first, second = (each.score(_own(each, raw)) for each in (self.first, self.second))
        return np.asarray(first - second)


@dataclass(frozen=True)
class ContrastTarget:
    """One answer rather than another.

    Attributes
    ----------
    target, versus
        Both as `explain` takes targets, each one answer: classes, or whatever has a probability. Of
        a detector's box or a segmenter's region, `versus` is another class in the same place; of a
        character, another one there.
    """

    target: Any
    versus: Any

    def outputs(self, reader: Reader) -> tuple[str, ...]:
        """Name what both need to see.

        An objective needs to see nothing to be bound; what it reads is asked for once it is known.
        """
        specs = self._specs()
        seeing = [each for each in specs if not isinstance(each, FixedTarget)] or specs
        return tuple(dict.fromkeys(name for each in seeing for name in each.outputs(reader)))

    def bind(self, raw: Raw, context: Context) -> list[Objective]:
        """Return the objective of one picture.

        Raises
        ------
        TargetError
            Either means no answer or several, both mean the same, or they cannot be compared.
        """
        first_spec, second_spec = self._specs()
        first = self._only(first_spec, self.target, raw, context)
        second = _in_its_place(first, second_spec, raw, context)
        if second is None:
            second = self._only(second_spec, self.versus, raw, context)
        kinds = [each.describe()["kind"] for each in (first, second)]
        for kind in kinds:
            if kind in _INSTEAD:
                raise TargetError(f"a {kind} cannot be contrasted with another: {_INSTEAD[kind]}")
        if kinds[0] != kinds[1]:
            raise TargetError(
                f"a contrast takes two answers of one kind, and these are a {kinds[0]} and a "
                f"{kinds[1]}"
            )
        if first == second:
            said = first.describe()  # of another picture it may be another answer
            error = AbsentTargetError if self.target is None or _place(said) else TargetError
            raise error(f"target and versus are the same, {said['caption']}; give another versus=")
        return [ContrastObjective(first, second)]

    def _specs(self) -> list[TargetSpec]:
        return [_spec(each) for each in (self.target, self.versus)]

    @staticmethod
    def _only(spec: TargetSpec, target: Any, raw: Raw, context: Context) -> Objective:
        """Return the only objective that a target means."""
        wanted = () if isinstance(spec, FixedTarget) else spec.outputs(context.reader)
        found = spec.bind({name: raw[name] for name in wanted}, context)
        if len(found) != 1:
            said = f"target {target!r}" if isinstance(target, str) else "the target"
            raise TargetError(
                f"{said} means {len(found)} answers; a contrast takes one against one"
            )
        return found[0]


def _spec(target: Any) -> TargetSpec:
    """Return one target's specification."""
    found = target_specs(target)
    if len(found) != 1:
        raise TargetError(f"target {target!r} is a sequence; a contrast takes one against one")
    return found[0]


def _in_its_place(
    first: Objective, versus: TargetSpec, raw: Raw, context: Context
) -> Objective | None:
    """Return the objective of another class in the same box or region, or of another character.

    None where the first is in no one place, or `versus` is more than a class.
    """
    if not isinstance(versus, WordTarget) or versus.wanted is None:
        return None
    kind = context.reader.kind
    if isinstance(first, BoxObjective | MatchedObjective) and isinstance(kind, DetectorKind):
        column = kind.column(versus.wanted, context)
        return replace(first, column=column, label=kind.class_name(column, context))
    if isinstance(first, RegionObjective) and isinstance(kind, SegmenterKind):
        read = kind.read(raw, context)
        column = read.column(versus.wanted)
        return replace(first, column=column, label=read.name(column))
    if isinstance(first, CharacterObjective) and isinstance(kind, RecogniserKind):
        column, label = kind.column(versus.wanted, context.reader)
        return replace(first, place=replace(first.place, column=column), label=label)
    return None


def _place(said: Mapping[str, Any]) -> dict[str, Any]:
    """Return where an answer is, of its record: a number, a box, or nothing."""
    return {key: said[key] for key in ("number", "box") if said.get(key) is not None}


def _own(objective: Objective, raw: Raw) -> Raw:
    return {name: raw[name] for name in objective.outputs}

"""Contrasts: one prediction rather than another, such as one class against another.

With probabilities p and q, the score is log p / (p + q). For two classes of a softmax this is the
log-sigmoid of the difference of their logits. Similarities have a contrast of their own, in
`embedding`.
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
    "similarity": "pass like= and unlike=",
    "value": "it is not a probability; explain each value separately, without versus=",
}


@dataclass(frozen=True)
class ContrastObjective(Objective):
    """Probability of one prediction among two: log p / (p + q).

    Attributes
    ----------
    first, second
        Objectives with probabilities p and q.
    """

    first: Objective
    second: Objective

    @property
    def outputs(self) -> tuple[str, ...]:
        """The tensors that either objective reads."""
        return tuple(dict.fromkeys((*self.first.outputs, *self.second.outputs)))

    @property
    def nodes(self) -> tuple[Nodes, ...]:
        """Writers of the tensors of both objectives."""
        both = (*self.first.nodes, *self.second.nodes)
        return tuple({id(each): each for each in both}.values())

    @property
    def location(self) -> Box | None:
        """Location of the first objective."""
        return self.first.location

    @property
    def extent(self) -> float | None:
        """Extent of the first objective."""
        return self.first.extent

    @property
    def family(self) -> Hashable:
        """Families of both objectives."""
        return type(self), self.first.family, self.second.family

    def score(self, raw: Raw) -> Doubles:
        """Return log p / (p + q), float64 [N] in nats."""
        return np.asarray(-np.logaddexp(0, -self._difference(raw)))

    def vjp(self, raw: Raw) -> dict[str, npt.NDArray[np.float32]]:
        """Return its gradient: q / (p + q) times that of log p - log q."""
        with np.errstate(over="ignore"):
            weights = 1 / (1 + np.exp(self._difference(raw)))
        found = {name: np.zeros(raw[name].shape, np.float32) for name in self.outputs}
        for objective, sign in ((self.first, 1), (self.second, -1)):
            for name, each in objective.vjp(_own(objective, raw)).items():
                scale = sign * weights.reshape(-1, *[1] * (each.ndim - 1))
                found[name] += (scale * each).astype(np.float32)
        return found

    def to_onnx(self, graph: onnx.GraphProto) -> str | None:
        """Append nodes that compute the score; None if either objective exists in Python only."""
        nodes, constants = len(graph.node), len(graph.initializer)
        written = [each.to_onnx(graph) for each in (self.first, self.second)]
        first, second = written
        if first is None or second is None:
            del graph.node[nodes:], graph.initializer[constants:]
            return None
        head = Head(graph)
        return head.log_sigmoid(head.op("Sub", first, second))

    def warnings(self, raw: Raw) -> tuple[str, ...]:
        """Return the warnings of both."""
        both = (self.first, self.second)
        return tuple(dict.fromkeys(it for each in both for it in each.warnings(_own(each, raw))))

    def describe(self) -> dict[str, Any]:
        """Return both, with the location of the first, and of the second if it differs."""
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
        """Return log p - log q, float64 [N]."""
        first, second = (each.score(_own(each, raw)) for each in (self.first, self.second))
        return np.asarray(first - second)


@dataclass(frozen=True)
class ContrastTarget:
    """Explain one prediction rather than another, such as one class against another.

    Scores log p / (p + q) of the two probabilities: what favours the first over the second.

    Attributes
    ----------
    target, versus
        Targets as `explain` accepts them, each standing for one prediction that has a probability:
        usually two classes. If `target` is a box or a region, a `versus` class is read at the same
        place; if it is a character, `versus` is another character at that position.

    Raises
    ------
    TargetError
        When bound: either target stands for no or several predictions, both are the same, or they
        are of different kinds.

    Examples
    --------
    >>> ContrastTarget("cat", "dog")
    ContrastTarget(target='cat', versus='dog')
    """

    target: Any
    versus: Any

    def outputs(self, reader: Reader) -> tuple[str, ...]:
        """Return the names of the outputs that both targets read.

        Empty for targets that are objectives already: their tensors are requested when bound.
        """
        specs = self._specs()
        seeing = [each for each in specs if not isinstance(each, FixedTarget)] or specs
        return tuple(dict.fromkeys(name for each in seeing for name in each.outputs(reader)))

    def bind(self, raw: Raw, context: Context) -> list[Objective]:
        """Return the contrast for one image, as a list of one objective.

        Raises
        ------
        TargetError
            Either target stands for no or several predictions, both are the same, or they cannot be
            compared.
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
                f"target and versus must be of the same kind; target is a {kinds[0]}, versus a "
                f"{kinds[1]}"
            )
        if first == second:
            said = first.describe()  # for another image they may differ
            error = AbsentTargetError if self.target is None or _place(said) else TargetError
            raise error(f"target and versus are the same, {said['caption']}; pass another versus=")
        return [ContrastObjective(first, second)]

    def _specs(self) -> list[TargetSpec]:
        return [_spec(each) for each in (self.target, self.versus)]

    @staticmethod
    def _only(spec: TargetSpec, target: Any, raw: Raw, context: Context) -> Objective:
        """Return the single objective that a target stands for."""
        wanted = () if isinstance(spec, FixedTarget) else spec.outputs(context.reader)
        found = spec.bind({name: raw[name] for name in wanted}, context)
        if len(found) != 1:
            said = f"target {target!r}" if isinstance(target, str) else "the target"
            raise TargetError(
                f"{said} stands for {len(found)} objectives; a contrast requires one on each side"
            )
        return found[0]


def _spec(target: Any) -> TargetSpec:
    """Return the specification of a single target."""
    found = target_specs(target)
    if len(found) != 1:
        raise TargetError(f"target {target!r} is a sequence; a contrast requires a single one")
    return found[0]


def _in_its_place(
    first: Objective, versus: TargetSpec, raw: Raw, context: Context
) -> Objective | None:
    """Return the objective of another class in the same box or region, or of another character.

    None if the first objective is not localised, or `versus` is not a plain class.
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
    """Return the fields of a record that locate a prediction: its number, its box, or none."""
    return {key: said[key] for key in ("number", "box") if said.get(key) is not None}


def _own(objective: Objective, raw: Raw) -> Raw:
    return {name: raw[name] for name in objective.outputs}

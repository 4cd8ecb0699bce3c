"""Targets as callers write them, brought to one form: indices, labels, objectives, or several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ibisa_onnx.errors import TargetError
from ibisa_onnx.targets.base import Context, FixedTarget, Objective, Raw, Reader, TargetSpec
from ibisa_onnx.targets.classification import count

_HUGE = 10**18


@dataclass(frozen=True)
class WordTarget:
    """A word or a number, which means a class or whatever the kind of model knows by it."""

    wanted: Any = None

    def outputs(self, reader: Reader) -> tuple[str, ...]:
        """Name what the target that is meant reads."""
        return reader.kind.target(self.wanted).outputs(reader)

    def bind(self, raw: Raw, context: Context) -> list[Objective]:
        """Bind the target that is meant."""
        return context.reader.kind.target(self.wanted).bind(raw, context)


@dataclass(frozen=True)
class PointTarget:
    """What the model says at a point: a box, a region, or whatever its kind knows of places.

    Attributes
    ----------
    at
        x and y in the picture's pixels.
    wanted
        A class there; None: whichever is there.
    """

    at: tuple[float, float]
    wanted: str | int | None = None

    def outputs(self, reader: Reader) -> tuple[str, ...]:
        """Name what the target that is meant reads."""
        return reader.kind.at(self.at, self.wanted).outputs(reader)

    def bind(self, raw: Raw, context: Context) -> list[Objective]:
        """Bind the target that is meant."""
        return context.reader.kind.at(self.at, self.wanted).bind(raw, context)


def is_several(targets: Any) -> bool:
    """Tell whether targets are a sequence of them, and not one."""
    if isinstance(targets, np.ndarray):
        return targets.ndim > 0
    return isinstance(targets, Sequence) and not isinstance(targets, str | bytes)


def listed(targets: Any) -> list[Any]:
    """Return targets as a list, of one where there is one."""
    return list(targets) if is_several(targets) else [targets]


def target_specs(targets: Any) -> list[TargetSpec]:
    """Return what a user wrote as target specifications; TargetError where that is nothing."""
    given = listed(targets)
    if not given:
        raise TargetError("no target is given; leave it out for the predicted class")
    return [_spec(each) for each in given]


def _spec(target: Any) -> TargetSpec:
    if isinstance(target, Objective):
        return FixedTarget(target)
    if isinstance(target, np.ndarray) and target.ndim == 0:
        target = target.item()
    if isinstance(target, int) and abs(target) >= _HUGE:  # of many digits Python writes none
        raise TargetError(f"target is a number of {target.bit_length()} bits; give a class index")
    known = isinstance(target, TargetSpec) and not isinstance(target, type)
    return target if known else WordTarget(target)


def check_single(target: Any, instead: str = "use explain_all") -> None:
    """Raise `TargetError` where a target is several; `instead` says what to do."""
    if is_several(target):
        raise TargetError(f"target {target!r} is a sequence; {instead}")
    if count(target) > 1:
        raise TargetError(f"target {target!r} is several classes; {instead}")

"""Normalisation of targets as callers pass them: indices, labels, objectives, or several."""

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
    """Target given as a word or a number, whose meaning depends on the kind of model.

    A class index or label for a classifier, a joint for a keypoint model, and so on
    (`Kind.target`).

    Attributes
    ----------
    wanted
        What the caller passed; None for the default target, such as the predicted class.
    """

    wanted: Any = None

    def outputs(self, reader: Reader) -> tuple[str, ...]:
        """Return the names of the tensors that the resolved target reads."""
        return reader.kind.target(self.wanted).outputs(reader)

    def bind(self, raw: Raw, context: Context) -> list[Objective]:
        """Resolve the target for the model's kind and bind it to one image."""
        return context.reader.kind.target(self.wanted).bind(raw, context)


@dataclass(frozen=True)
class PointTarget:
    """Target at a point of the image: the box, region, joint, character or value there.

    What is found at a point depends on the kind of model (`Kind.at`).

    Attributes
    ----------
    at
        x and y, in pixels of the original image.
    wanted
        Class at that point, by label or index; None for whichever class is found there. For models
        that return values, the direction: "keep", "raise" or "lower".
    """

    at: tuple[float, float]
    wanted: str | int | None = None

    def outputs(self, reader: Reader) -> tuple[str, ...]:
        """Return the names of the tensors that the resolved target reads."""
        return reader.kind.at(self.at, self.wanted).outputs(reader)

    def bind(self, raw: Raw, context: Context) -> list[Objective]:
        """Resolve the target for the model's kind and bind it to one image."""
        return context.reader.kind.at(self.at, self.wanted).bind(raw, context)


def is_several(targets: Any) -> bool:
    """Return whether `targets` is a sequence of targets rather than a single one."""
    if isinstance(targets, np.ndarray):
        return targets.ndim > 0
    return isinstance(targets, Sequence) and not isinstance(targets, str | bytes)


def listed(targets: Any) -> list[Any]:
    """Return targets as a list; a single target becomes a list of one."""
    return list(targets) if is_several(targets) else [targets]


def target_specs(targets: Any) -> list[TargetSpec]:
    """Convert what a caller passed to target specifications; `TargetError` if it is empty."""
    given = listed(targets)
    if not given:
        raise TargetError("the list of targets is empty; omit it to explain the predicted class")
    return [_spec(each) for each in given]


def _spec(target: Any) -> TargetSpec:
    if isinstance(target, Objective):
        return FixedTarget(target)
    if isinstance(target, np.ndarray) and target.ndim == 0:
        target = target.item()
    if isinstance(target, int) and abs(target) >= _HUGE:  # Python cannot format them
        raise TargetError(f"target is a number of {target.bit_length()} bits; pass a class index")
    known = isinstance(target, TargetSpec) and not isinstance(target, type)
    return target if known else WordTarget(target)


def check_single(target: Any, instead: str = "use explain_all") -> None:
    """Raise `TargetError` if a target stands for several; `instead` says what to do."""
    if is_several(target):
        raise TargetError(f"target {target!r} is a sequence; {instead}")
    if count(target) > 1:
        raise TargetError(f"target {target!r} stands for several classes; {instead}")

"""What callers write, checked and brought to one form: targets, seeds, deadlines.

Messages name Python arguments. What the arguments then do is not known here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ibisa_onnx.errors import OptionError, TargetError
from ibisa_onnx.methods.problem import Problem
from ibisa_onnx.methods.stopping import Control, Progress, StoppingRule, check_deadline
from ibisa_onnx.preprocessing.resolve import Overrides
from ibisa_onnx.preprocessing.spec import Preprocessing
from ibisa_onnx.targets.base import FixedTarget, Objective, TargetSpec
from ibisa_onnx.targets.classification import ClassTarget, count


def layout_given(
    preprocessing: Preprocessing | str | os.PathLike[str] | None, overrides: Overrides
) -> str | None:
    """Return the layout that was given, without which some shapes cannot be read."""
    if isinstance(preprocessing, Preprocessing):
        return preprocessing.layout
    return overrides.layout


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
    known = isinstance(target, TargetSpec) and not isinstance(target, type)
    return target if known else ClassTarget(target)


def check_single(target: Any, instead: str = "use explain_all") -> None:
    """Raise `TargetError` where a target is several; `instead` says what to do."""
    if is_several(target):
        raise TargetError(f"target {target!r} is a sequence; {instead}")
    if count(target) > 1:
        raise TargetError(f"target {target!r} is several classes; {instead}")


def check_rows(problem: Problem, images: int) -> None:
    """Raise `TargetError` where targets bind to no answer of a picture, or to several."""
    pictures = {id(row.picture) for row in problem.rows}
    if len(problem) != images or len(pictures) != images:
        raise TargetError(
            f"the target means {len(problem)} answers to {images} image(s); it must mean one "
            "each, or use explain_all"
        )


def check_seed(seed: Any) -> None:
    """Raise `OptionError` where a seed is no whole number, 0 or more."""
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise OptionError(f"seed is {seed!r}; give a whole number, 0 or more")


def control_from_now(
    progress: Progress | None,
    deadline: float | None,
    stop: Callable[[], bool] | None,
    *,
    intermediate: bool = False,
) -> Control:
    """Return the control of a run that begins now; `deadline` is in seconds, counted from now.

    Raises
    ------
    OptionError
        One of them is not what it should be.
    """
    seconds = check_deadline(deadline)
    for name, value in (("progress", progress), ("stop", stop)):
        if value is not None and not callable(value):
            raise OptionError(f"{name} is {value!r}; give a function")
    control = Control(StoppingRule(), intermediate=intermediate)
    control.stopping.deadline = control.begin + seconds
    if stop is not None:
        control.stopping.stop = stop
    if progress is not None:
        control.progress = progress
    return control

"""Which masked pictures the deployed model is asked about: to fit the student, and to judge it.

Some pictures are held out of the training set; of the others, other masks are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ibisa_exporters.distillation.answers import draw_masks
from ibisa_onnx.errors import OptionError
from ibisa_onnx.gradients.masked_images import Floats, MaskedImages
from ibisa_onnx.methods.ibisa.options import Options
from ibisa_onnx.methods.problem import Problem

_MIRRORED = 4  # of so many training masks, one more is shown of the mirror image
_EVALUATED = 24  # masks of each picture


@dataclass(frozen=True, eq=False)
class MaskedPicture:
    """A picture, and the masks that it is shown under, float32 [M, 1, h, w]."""

    problem: Problem
    masks: Floats


@dataclass(frozen=True)
class TrainingPlan:
    """What the student is fitted to, and what it is judged by.

    Attributes
    ----------
    training
        The training set.
    seen
        The same pictures under other masks.
    unseen
        Other pictures, under masks.
    """

    training: list[MaskedPicture]
    seen: list[MaskedPicture]
    unseen: list[MaskedPicture]


def plan_training(
    problems: Sequence[Problem], options: Options, *, masks: int, held_out: float, seed: int
) -> TrainingPlan:
    """Choose pictures and masks.

    Parameters
    ----------
    masks
        Of each picture in the training set; 0: there is none.
    held_out
        Share of the pictures that are not in it, at least one picture where it is not 0.

    Raises
    ------
    OptionError
        There are too few pictures.
    """
    count = max(1, round(held_out * len(problems))) if held_out else 0
    if len(problems) <= count:
        raise OptionError(
            f"{len(problems)} picture(s) are too few to hold {count} out; give more, or held_out=0"
        )
    held = set(np.random.default_rng(seed).permutation(len(problems))[:count].tolist())
    plan = TrainingPlan([], [], [])
    for number, problem in enumerate(problems):
        rng = np.random.default_rng((seed, number))

        def draw(problem: Problem, count: int, rng: np.random.Generator = rng) -> MaskedPicture:
            return MaskedPicture(problem, draw_masks(rng, count, problem.size, options))

        evaluation = draw(problem, _EVALUATED)
        (plan.unseen if number in held else plan.seen).append(evaluation)
        if masks and number not in held:
            plan.training.append(draw(problem, masks))
            plan.training.append(draw(_mirrored(problem), max(1, masks // _MIRRORED)))
    return plan


def _mirrored(problem: Problem) -> Problem:
    """The same answer to the picture's mirror image."""
    both = (problem.masked.images, problem.masked.baselines)
    mirrored = (np.ascontiguousarray(each[..., ::-1]) for each in both)
    return replace(problem, masked=MaskedImages(*mirrored))

"""Choice of masked images for fitting and evaluating a student.

Evaluation uses held-out images, and held-out masks of the training images.
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

_MIRRORED = 4  # one mask of the mirror image per this many training masks
_EVALUATED = 24  # masks per image


@dataclass(frozen=True, eq=False)
class MaskedPicture:
    """An image and its masks, float32 [M, 1, h, w]."""

    problem: Problem
    masks: Floats


@dataclass(frozen=True)
class TrainingPlan:
    """Training and evaluation sets.

    Attributes
    ----------
    training
        The training set.
    seen
        The training images under other masks.
    unseen
        The held-out images under masks.
    """

    training: list[MaskedPicture]
    seen: list[MaskedPicture]
    unseen: list[MaskedPicture]


def plan_training(
    problems: Sequence[Problem], options: Options, *, masks: int, held_out: float, seed: int
) -> TrainingPlan:
    """Choose images and masks.

    Parameters
    ----------
    problems
        One per image.
    options
        IBISA's options, which determine the masks.
    masks
        Masks per training image; 0: no training set.
    held_out
        Fraction of the images to hold out, at least one image unless it is 0.
    seed
        Seed of the choice and the masks.

    Raises
    ------
    OptionError
        There are too few images.
    """
    count = max(1, round(held_out * len(problems))) if held_out else 0
    if len(problems) <= count:
        raise OptionError(
            f"{len(problems)} image(s) are too few to hold out {count}; pass more, or held_out=0"
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
    """Return the problem of the mirror image."""
    both = (problem.masked.images, problem.masked.baselines)
    mirrored = (np.ascontiguousarray(each[..., ::-1]) for each in both)
    return replace(problem, masked=MaskedImages(*mirrored))

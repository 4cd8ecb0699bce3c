"""On-policy masks: those that explanations by the student ask about, for the deployed model.

A student that is a little wrong leads IBISA's steps to masks that are not in its training set. So
these are added to it, with the deployed model's answers (DAgger, Ross et al., arXiv 1011.0686).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from torch import nn

from ibisa_exporters.distillation.training_plan import MaskedPicture
from ibisa_onnx.gradients.base import GradientSource
from ibisa_onnx.gradients.masked_images import Floats
from ibisa_onnx.gradients.surrogate import SurrogateGradient
from ibisa_onnx.methods.ibisa.optimizer import optimise, pathwise
from ibisa_onnx.methods.ibisa.options import Options
from ibisa_onnx.methods.problem import MaskGradient, Problem
from ibisa_onnx.models.passes import PassCounter

_TURNS = (0.0, 0.3)  # of the waves' direction: as `run` has them, and once between those


def masks_per_picture(options: Options) -> int:
    """Return how many on-policy masks each picture gets."""
    return options.steps * len(_TURNS)


def on_policy(
    student: nn.Module,
    problems: Sequence[Problem],
    options: Options,
    progress: Callable[[int, int], None],
) -> list[MaskedPicture]:
    """Explain each picture by the student, and return all masks on the way there."""
    student.eval()
    (output,) = problems[0].row.objective.outputs
    source, pictures = SurrogateGradient(student, output), []
    for number, problem in enumerate(problems, 1):
        masks: list[Floats] = []
        for turn in _TURNS:
            turned = replace(options, rounds=1, wave_angle=options.wave_angle + turn)
            masks += _masks_of_steps(source, problem, turned)
        pictures.append(MaskedPicture(problem, np.stack(masks)[:, None]))
        progress(number, len(problems))
    return pictures


def _masks_of_steps(source: GradientSource, problem: Problem, options: Options) -> list[Floats]:
    """Take IBISA's steps by the student's gradient; return the masks [h, w] they ask about."""
    uncounted = replace(problem, passes=PassCounter())  # the deployed model is not asked
    gradient, asked = uncounted.gradient(source), list[Floats]()

    def noted(masks: Floats) -> MaskGradient:
        asked.extend(masks)
        return gradient(masks)

    step, rng = pathwise(noted, options.temperature), np.random.default_rng(0)
    for _ in optimise(lambda rounds: step, 1, problem.size, options, rng):
        pass
    return asked

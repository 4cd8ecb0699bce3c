"""On-policy masks: those that IBISA samples with the student's gradient.

An imperfect student leads IBISA's steps to masks that are not in its training set. These are added
to it, with the deployed model's predictions (DAgger, Ross et al., arXiv 1011.0686).
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

_TURNS = (0.0, 0.3)  # rotations of the waves, radians: those of `run`, and one in between


def masks_per_picture(options: Options) -> int:
    """Return the number of on-policy masks per image."""
    return options.steps * len(_TURNS)


def on_policy(
    student: nn.Module,
    problems: Sequence[Problem],
    options: Options,
    progress: Callable[[int, int], None],
) -> list[MaskedPicture]:
    """Explain each image with the student's gradient, and return all sampled masks."""
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
    """Run IBISA's steps with the student's gradient; return the sampled masks [h, w]."""
    uncounted = replace(problem, passes=PassCounter())  # the deployed model is not queried
    gradient, asked = uncounted.gradient(source), list[Floats]()

    def noted(masks: Floats) -> MaskGradient:
        asked.extend(masks)
        return gradient(masks)

    step = pathwise(noted, options.temperature)
    for _ in optimise(lambda rounds: step, 1, problem.size, options):
        pass
    return asked

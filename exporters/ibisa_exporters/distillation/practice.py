"""The masks that explanations by a student do ask about, for the deployed model to correct.

A student that is a little wrong leads IBISA's steps to masks at which it was never taught; these
are the ones that it is taught in a second part (as in DAgger, Ross et al., arXiv 1011.0686).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from torch import nn

from ibisa_exporters.distillation.questions import Question
from ibisa_onnx.gradients.surrogate import SurrogateGradient
from ibisa_onnx.methods.ibisa.method import slope_of
from ibisa_onnx.methods.ibisa.optimizer import Options, optimise
from ibisa_onnx.methods.ibisa.step import Pull, pathwise
from ibisa_onnx.methods.masking import Floats
from ibisa_onnx.methods.problem import Case
from ibisa_onnx.models.passes import PassCounter

_TURNS = (0.0, 0.3)  # of the waves' direction: as `run` has them, and once between those


def practice_masks(options: Options) -> int:
    """Return how many masks each case is practised by."""
    return options.steps * len(_TURNS)


def practise(
    student: nn.Module,
    cases: Sequence[Case],
    options: Options,
    progress: Callable[[int, int], None],
) -> list[Question]:
    """Explain each case by the student, and return all masks on the way there."""
    student.eval()
    source, turned = SurrogateGradient(student, PassCounter()), replace(options, rounds=1)
    questions = []
    for number, case in enumerate(cases, 1):
        masks: list[Floats] = []
        for turn in _TURNS:
            steps = replace(turned, tilt=options.tilt + turn)
            masks += _asked(source, case, steps)
        questions.append(Question(case, np.stack(masks)[:, None]))
        progress(number, len(cases))
    return questions


def _asked(source: SurrogateGradient, case: Case, options: Options) -> list[Floats]:
    """Take IBISA's steps by the student's gradient; return the masks [h, w] they ask about."""
    slope, masks = slope_of(case, source(case.bottleneck)), list[Floats]()

    def noted(mask: Floats) -> Pull:
        masks.append(mask)
        return slope(mask)

    rng = np.random.default_rng(0)
    for _ in optimise(pathwise(noted, options.temperature), case.bottleneck.size, options, rng):
        pass
    return masks

"""Which questions are put to the deployed model: of lessons, and of the examination after them.

Some pictures are held out of the lessons; of the others, other masks are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ibisa_exporters.distillation.answers import draw_masks
from ibisa_onnx.errors import OptionError
from ibisa_onnx.methods.ibisa.optimizer import Options
from ibisa_onnx.methods.masking import Bottleneck, Floats
from ibisa_onnx.methods.problem import Case

_MIRRORED = 4  # of so many masks, one more is shown of the mirror image
_EXAMINED = 24  # masks of each picture


@dataclass(frozen=True)
class Question:
    """A picture, and the masks that it is shown under."""

    case: Case
    masks: Floats


@dataclass(frozen=True)
class Course:
    """All questions: what the student is fitted to, and what it is judged by.

    `seen` are other masks of the lessons' pictures, `unseen` masks of other pictures.
    """

    lessons: list[Question]
    seen: list[Question]
    unseen: list[Question]


def plan(
    cases: Sequence[Case], options: Options, *, masks: int, held_out: float, seed: int
) -> Course:
    """Choose pictures and masks; without `masks` there are no lessons.

    Raises
    ------
    OptionError
        There are too few pictures.
    """
    aside = _held_out(len(cases), held_out, seed)
    course = Course([], [], [])
    for number, case in enumerate(cases):
        rng = np.random.default_rng((seed, number))

        def draw(case: Case, count: int, rng: np.random.Generator = rng) -> Question:
            return Question(case, draw_masks(rng, count, case.bottleneck.size, options))

        examination = draw(case, _EXAMINED)
        (course.unseen if number in aside else course.seen).append(examination)
        if masks and number not in aside:
            course.lessons.append(draw(case, masks))
            course.lessons.append(draw(_mirrored(case), max(1, masks // _MIRRORED)))
    return course


def _held_out(pictures: int, share: float, seed: int) -> set[int]:
    """Choose the pictures to hold out; at least one if any."""
    count = max(1, round(share * pictures)) if share else 0
    if pictures <= count:
        raise OptionError(
            f"{pictures} picture(s) are too few to hold {count} out; give more, or --held-out 0"
        )
    return {int(number) for number in np.random.default_rng(seed).permutation(pictures)[:count]}


def _mirrored(case: Case) -> Case:
    """The same question to the picture's mirror image."""
    image, baseline = case.bottleneck.image, case.bottleneck.baseline
    turned = (np.ascontiguousarray(each[..., ::-1]) for each in (image, baseline))
    return replace(case, bottleneck=Bottleneck(*turned))

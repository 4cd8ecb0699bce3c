"""From a deployed model and some pictures to a student that is certified, or is not."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from ibisa_exporters.distillation.agreement import agreement
from ibisa_exporters.distillation.answers import Answers, ask
from ibisa_exporters.distillation.distilled import Distilled
from ibisa_exporters.distillation.fitting import Budget, fit
from ibisa_exporters.distillation.practice import practice_masks, practise
from ibisa_exporters.distillation.questions import Course, Question, plan
from ibisa_exporters.distillation.settings import RATES, Settings
from ibisa_exporters.distillation.students import OwnGraph, SmallNet
from ibisa_onnx.errors import OptionError, UnsupportedOperatorError
from ibisa_onnx.methods.ibisa.optimizer import Options
from ibisa_onnx.methods.problem import Case
from ibisa_onnx.targets.classification import ClassOutput

if TYPE_CHECKING:
    from ibisa_onnx import Explainer
    from ibisa_onnx.explainer import Image

Progress = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done, and how much there will be."""


def distil(
    explainer: Explainer,
    images: Sequence[Image],
    settings: Settings | None = None,
    *,
    progress: Progress = lambda what, done, total: None,
) -> Distilled:
    """Fit a differentiable student to a deployed model's answers to masked pictures.

    Parameters
    ----------
    explainer
        Has the model, be it a file or a function, with its preprocessing and output's reading.
    images
        Pictures such as will be explained: paths, bytes, or arrays uint8 [H, W, 3].
    settings
        None: all defaults.
    progress
        Called with what is being done, how much of it is done, and how much there will be.

    Raises
    ------
    IbisaError
        A picture cannot be read, the model fails, there are too few pictures to hold some out, or
        a small network is to be fitted for no epoch.
    """
    settings = settings or Settings()
    model, before = explainer.model, explainer.model.passes.snapshot()
    cases = _cases(explainer, images, progress)
    kind, reason, student = _student(cases[0], settings)
    epochs = settings.epochs_of(kind)
    course = plan(
        cases,
        explainer.options,
        masks=settings.masks if epochs else 0,
        held_out=settings.held_out,
        seed=settings.seed,
    )
    rng = np.random.default_rng(settings.seed)
    task = _Task(cases[0].output, explainer.options, settings, progress, rng)
    student.to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    steps = _teach(student, kind, course, epochs, task) if epochs else 0
    student.eval()
    seen = agreement(student, task.ask("judging", course.seen), task.output)
    others = task.ask("judging by others", course.unseen)
    unseen = agreement(student, others, task.output) if others else None
    return Distilled(
        student=student,
        shape=_shape(cases[0]),
        model=model.label,
        sha256=model.sha256,
        graph_sha256=model.graph_sha256,
        kind=kind,
        reason=reason,
        seen=seen,
        unseen=unseen,
        queries=model.passes.since(before).forward,
        steps=steps,
    )


def _cases(explainer: Explainer, images: Sequence[Image], progress: Progress) -> list[Case]:
    """Ask the model about each untouched picture."""
    if not images:
        raise OptionError("there is no picture; give some such as will be explained")
    cases = []
    for number, image in enumerate(images, 1):
        cases.append(explainer.question(image).case)
        progress("reading", number, len(images))
    cases[0].see_whether_images_mix()
    if len({_shape(case) for case in cases}) > 1:
        raise OptionError("the pictures reach the model in several sizes; give one with --size")
    # How the output is read may have been guessed from the first, and corrected by a later one.
    return [replace(case, output=cases[-1].output) for case in cases]


def _shape(case: Case) -> tuple[int, int, int]:
    _, channels, height, width = case.bottleneck.image.shape
    return channels, height, width


def _student(case: Case, settings: Settings) -> tuple[str, str, nn.Module]:
    """Return the kind of student, why it is not the deployed graph, and the student itself."""
    why = "a small network was asked for"
    if settings.student != "small":
        try:
            return "own", "", OwnGraph(case)
        except UnsupportedOperatorError as error:
            if settings.student == "own":
                raise
            why = str(error)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(settings.seed)  # the CPU's alone
        return "small", why, SmallNet(_shape(case), case.output)


def _teach(student: nn.Module, kind: str, course: Course, epochs: int, task: _Task) -> int:
    """Fit a student in two parts, by lessons and by practice; return the steps that took."""
    lessons = task.ask("asking", course.lessons)
    if isinstance(student, SmallNet):
        student.prepare(lessons, task.output)
    first = epochs - epochs // 2
    steps = task.fit("fitting", student, lessons, kind, first)
    if epochs > first:
        told = partial(task.progress, "practising")
        practice = practise(student, task.some(course.lessons), task.options, told)
        lessons += task.ask("asking again", practice)
        steps += task.fit("fitting again", student, lessons, kind, epochs - first)
    return steps


@dataclass(frozen=True)
class _Task:
    """What all parts of the work need to know."""

    output: ClassOutput
    options: Options
    settings: Settings
    progress: Progress
    rng: np.random.Generator

    def ask(self, what: str, questions: Sequence[Question]) -> list[Answers]:
        """Ask the deployed model."""
        total, done = sum(len(question.masks) for question in questions), 0
        answers = []
        for question in questions:
            answers.append(ask(question.case, question.masks))
            done += len(question.masks)
            self.progress(what, done, total)
        return answers

    def some(self, lessons: Sequence[Question]) -> list[Case]:
        """Choose what to practise by, so that it is a fifth of all that is taught."""
        images = sum(len(question.masks) for question in lessons)
        count = math.ceil(images / 4 / practice_masks(self.options))
        chosen = self.rng.permutation(len(lessons))[:count]
        return [lessons[number].case for number in sorted(chosen)]

    def fit(
        self, what: str, student: nn.Module, lessons: Sequence[Answers], kind: str, epochs: int
    ) -> int:
        """Fit a student; each of two parts has half of the time."""
        minutes = self.settings.minutes
        return fit(
            student,
            lessons,
            self.output,
            rate=RATES[kind],
            budget=Budget(epochs, 30 * minutes if minutes else math.inf),
            rng=self.rng,
            progress=partial(self.progress, what),
        )

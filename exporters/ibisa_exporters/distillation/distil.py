"""Distillation from end to end: from a deployed model and images to an evaluated student."""

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
from ibisa_exporters.distillation.answers import Answers, ask, predicted_class
from ibisa_exporters.distillation.distilled import Distilled
from ibisa_exporters.distillation.fitting import Budget, fit
from ibisa_exporters.distillation.on_policy import masks_per_picture, on_policy
from ibisa_exporters.distillation.settings import RATES, Settings
from ibisa_exporters.distillation.students import OwnGraph, SmallNet
from ibisa_exporters.distillation.training_plan import MaskedPicture, plan_training
from ibisa_onnx.checks import check_type
from ibisa_onnx.errors import OptionError, UnsupportedOperatorError
from ibisa_onnx.methods.ibisa.options import Options
from ibisa_onnx.methods.problem import Problem
from ibisa_onnx.targets.class_scores import ClassScores

if TYPE_CHECKING:
    from ibisa_onnx import Explainer
    from ibisa_onnx.explainer import Image

Progress = Callable[[str, int, int], None]
"""Called with the name of the current stage, the work done in it, and the total."""


def distil(
    explainer: Explainer,
    images: Sequence[Image],
    settings: Settings | None = None,
    *,
    progress: Progress = lambda what, done, total: None,
) -> Distilled:
    """Fit a differentiable student to a deployed model's predictions for masked images.

    Parameters
    ----------
    explainer
        Explainer of the model, a file or a function.
    images
        Images like those to be explained: paths, bytes, or arrays uint8 [H, W, 3].
    settings
        How to fit and evaluate the student. Default: `Settings()`.
    progress
        Called with the name of the current stage, the work done in it, and the total.

    Returns
    -------
    Distilled
        The student and its agreement with the model.

    Raises
    ------
    OptionError
        There are no images or too few to hold some out, their sizes differ, or a small network is
        to be fitted for 0 epochs.
    GradientError
        The fit diverges.
    IbisaError
        An image cannot be read, or the model fails.
    """
    from ibisa_onnx import Explainer

    settings = Settings() if settings is None else settings
    check_type("explainer", explainer, Explainer, "an Explainer")
    check_type("images", images, (list, tuple), "a list of images")
    check_type("settings", settings, Settings, "a Settings")
    problems = _problems(explainer, images, progress)
    kind, reason, student = _student(problems[0], settings)
    epochs = settings.epochs_of(kind)
    plan = plan_training(
        problems,
        explainer.options,
        masks=settings.masks if epochs else 0,
        held_out=settings.held_out,
        seed=settings.seed,
    )
    run = _Distillation(
        student,
        kind,
        predicted_class(problems[0]).reading,
        explainer.options,
        settings,
        progress,
        np.random.default_rng(settings.seed),
    )
    student.to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    steps = run.train(plan.training, epochs) if epochs else 0
    student.eval()
    seen = agreement(student, run.ask("evaluating", plan.seen), run.reading)
    unseen = run.ask("evaluating on held-out images", plan.unseen)
    model = explainer.model
    return Distilled(
        student=student,
        shape=_shape(problems[0]),
        model=model.label,
        sha256=model.sha256,
        graph_sha256=model.graph_sha256,
        kind=kind,
        reason=reason,
        seen=seen,
        unseen=agreement(student, unseen, run.reading) if unseen else None,
        queries=sum(spent.forward for problem in problems for spent in problem.spent()),
        steps=steps,
    )


def _problems(explainer: Explainer, images: Sequence[Image], progress: Progress) -> list[Problem]:
    """Query the model on each unmodified image."""
    if not images:
        raise OptionError("no images; pass images like those to be explained")
    problems = []
    for number, image in enumerate(images, 1):
        problems.append(explainer.problem(image))
        progress("reading", number, len(images))
    problems[0].check_batch_independence()
    if len({_shape(problem) for problem in problems}) > 1:
        raise OptionError("the images have several sizes at the model's input; set one with size=")
    # The output may have been interpreted differently before later images corrected it.
    reading = predicted_class(problems[-1]).reading
    return [_read_as(reading, problem) for problem in problems]


def _read_as(reading: ClassScores, problem: Problem) -> Problem:
    """Return the problem with another interpretation of the output."""
    objective = replace(predicted_class(problem), reading=reading)
    return replace(problem, rows=(replace(problem.row, objective=objective),))


def _shape(problem: Problem) -> tuple[int, int, int]:
    _, channels, height, width = problem.image.shape
    return channels, height, width


def _student(problem: Problem, settings: Settings) -> tuple[str, str, nn.Module]:
    """Return the kind of student, why it is not the deployed graph, and the student."""
    why = "a small network was requested"
    if settings.student != "small":
        try:
            return "own", "", OwnGraph(problem)
        except UnsupportedOperatorError as error:
            if settings.student == "own":
                raise
            why = str(error)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(settings.seed)  # the CPU's alone
        return "small", why, SmallNet(_shape(problem), predicted_class(problem).reading)


@dataclass(frozen=True)
class _Distillation:
    """One distillation: a student, and the context shared by all stages."""

    student: nn.Module
    kind: str
    reading: ClassScores
    options: Options
    settings: Settings
    progress: Progress
    rng: np.random.Generator

    def train(self, training: Sequence[MaskedPicture], epochs: int) -> int:
        """Fit the student to the training set, then with on-policy masks added; return the steps.

        Each of the two fits uses half of the epochs and of the time.
        """
        answers = self.ask("querying", training)
        if isinstance(self.student, SmallNet):
            self.student.prepare(answers, self.reading)
        first = epochs - epochs // 2
        steps = self._fit("fitting", answers, first)
        if epochs > first:
            told = partial(self.progress, "explaining with the student")
            pictures = on_policy(self.student, self._some(training), self.options, told)
            answers += self.ask("querying again", pictures)
            steps += self._fit("fitting again", answers, epochs - first)
        return steps

    def ask(self, what: str, pictures: Sequence[MaskedPicture]) -> list[Answers]:
        """Query the deployed model on masked images."""
        total, done = sum(len(picture.masks) for picture in pictures), 0
        answers = []
        for picture in pictures:
            answers.append(ask(picture.problem, picture.masks))
            done += len(picture.masks)
            self.progress(what, done, total)
        return answers

    def _some(self, training: Sequence[MaskedPicture]) -> list[Problem]:
        """Choose images for on-policy masks, such that these are a fifth of the training set."""
        images = sum(len(picture.masks) for picture in training)
        count = math.ceil(images / 4 / masks_per_picture(self.options))
        chosen = self.rng.permutation(len(training))[:count]
        return [training[number].problem for number in sorted(chosen)]

    def _fit(self, what: str, answers: Sequence[Answers], epochs: int) -> int:
        minutes = self.settings.minutes
        return fit(
            self.student,
            answers,
            self.reading,
            rate=RATES[self.kind],
            budget=Budget(epochs, 30 * minutes if minutes else math.inf),
            rng=self.rng,
            progress=partial(self.progress, what),
        )

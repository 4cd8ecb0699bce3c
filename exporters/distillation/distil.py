"""From a deployed model and some pictures to a student that is certified, or is not."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from exporters.distillation.agreement import Agreement, agreement
from exporters.distillation.answers import Answers, ask
from exporters.distillation.fitting import Budget, fit
from exporters.distillation.practice import practice_masks, practise
from exporters.distillation.program import program_bytes
from exporters.distillation.questions import Course, Question, plan
from exporters.distillation.students import OwnGraph, SmallNet
from ibisa_onnx.case import Case
from ibisa_onnx.errors import GradientError, OptionError, UnsupportedOperatorError
from ibisa_onnx.ibisa import Options
from ibisa_onnx.targets import ClassOutput

if TYPE_CHECKING:
    from ibisa_onnx import Explainer
    from ibisa_onnx.explainer import Image

Progress = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done, and how much there will be."""

STUDENTS = ("auto", "own", "small")
_RATES = {"own": 1e-5, "small": 2e-3}
_EPOCHS = {"own": 0, "small": 12}


@dataclass(frozen=True)
class Settings:
    """How a student is fitted.

    Attributes
    ----------
    student
        "own", the deployed file's own graph; "small", a small network that knows nothing yet;
        "auto": the former where it can be had.
    masks
        Questions about each picture; a quarter as many are asked about its mirror image.
    held_out
        Share of the pictures that the student is not fitted to, but judged by. 0: it is judged by
        other masks of the same pictures alone.
    epochs
        Times over all answers; None: 12, and none for the deployed graph itself.
    minutes
        The most that the fit takes; None: as long as the epochs take. Without it the student is
        the same each time, on one machine.
    seed
        Of masks, held-out pictures and fit.
    """

    student: str = "auto"
    masks: int = 128
    held_out: float = 0.2
    epochs: int | None = None
    minutes: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise `OptionError` where a value is out of its range."""
        if self.student not in STUDENTS:
            known = ", ".join(STUDENTS)
            raise OptionError(f"student is {self.student!r}; choose from: {known}")
        for name, least in (("masks", 1), ("epochs", 0), ("seed", 0)):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int | np.integer) and value >= least):
                raise OptionError(f"{name} is {value!r}; give a whole number, {least} or more")
        if not 0 <= self.held_out < 1:
            raise OptionError(f"held_out is {self.held_out!r}; give 0 or more, below 1")
        if self.minutes is not None and not self.minutes > 0:
            raise OptionError(f"minutes is {self.minutes!r}; give more than 0")


@dataclass(frozen=True)
class Distilled:
    """A student, and what is known of it.

    Attributes
    ----------
    student
        Takes images float32 [N, C, H, W] in model space and returns raw scores [N, K].
    shape
        Channels, height and width of its images.
    model
        What the deployed model is called.
    sha256, graph_sha256
        The deployed model's digest, with its metadata and without; None where it has none.
    kind
        "own" or "small".
    reason
        Why it is not the deployed graph; else empty.
    seen, unseen
        Its agreement on other masks of the pictures it was fitted to, and on pictures it was not
        fitted to; None where none were held out.
    queries
        Images that the deployed model was asked about.
    steps
        Of the fit.
    """

    student: nn.Module
    shape: tuple[int, int, int]
    model: str
    sha256: str | None
    graph_sha256: str | None
    kind: str
    reason: str
    seen: Agreement
    unseen: Agreement | None
    queries: int
    steps: int

    @property
    def certified(self) -> bool:
        """Whether it agrees well enough wherever it was judged."""
        return self.seen.holds and (self.unseen is None or self.unseen.holds)

    @property
    def figures(self) -> str:
        """Its agreement in words."""
        known = "on pictures it was fitted to" if self.steps else "unfitted,"
        seen = f"{known} {self.seen}"
        return seen if self.unseen is None else f"{seen}; on others {self.unseen}"

    @property
    def facts(self) -> dict[str, Any]:
        """What travels in the file, plain data."""
        return {
            "version": 1,
            "model": self.model,
            "model_sha256": self.sha256,
            "graph_sha256": self.graph_sha256,
            "student": self.kind,
            "certified": self.certified,
            "seen": self.seen.to_dict(),
            "unseen": None if self.unseen is None else self.unseen.to_dict(),
            "queries": self.queries,
            "steps": self.steps,
        }

    def check(self) -> None:
        """Raise `GradientError` where it is not certified."""
        if not self.certified:
            raise GradientError(
                f"the surrogate agrees too little with {self.model}: {self.figures}; give more "
                "pictures, --masks or --epochs, or --force"
            )

    def to_bytes(self) -> bytes:
        """Return the content of its `.pt2` file."""
        return program_bytes(self.student, self.shape, self.facts)


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
        A picture cannot be read, the model fails, or there are too few pictures to hold some out.
    """
    settings = settings or Settings()
    model, before = explainer.model, explainer.model.passes.snapshot()
    cases = _cases(explainer, images, progress)
    kind, reason, student = _student(cases[0], settings)
    epochs = _EPOCHS[kind] if settings.epochs is None else settings.epochs
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
        torch.manual_seed(settings.seed)
        return "small", why, SmallNet(_shape(case), case.output)


def _teach(student: nn.Module, kind: str, course: Course, epochs: int, task: _Task) -> int:
    """Fit a student in two parts, by lessons and by practice; return the steps that took."""
    lessons = task.ask("asking", course.lessons)
    if isinstance(student, SmallNet):
        student.prepare(lessons, task.output)
    first = epochs - epochs // 2
    steps = task.fit("fitting", student, lessons, kind, first)
    if epochs > first:
        practice = practise(student, task.some(course.lessons), task.options)
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
            rate=_RATES[kind],
            budget=Budget(epochs, 30 * minutes if minutes else math.inf),
            rng=self.rng,
            progress=lambda done, total: self.progress(what, done, total),
        )

"""Fit of a student to a deployed model's predictions, in torch.

A batch contains several masks of each of several images. The loss compares probabilities and, with
equal weight, their differences between masks of one image: these determine the gradient with
respect to masks, to which a constant offset is irrelevant.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ibisa_exporters.distillation.answers import Answers
from ibisa_exporters.distillation.scores import cross_entropy, floored, log_probabilities
from ibisa_onnx.errors import GradientError
from ibisa_onnx.targets.class_scores import ClassScores

_PICTURES, _MASKS = 4, 8  # in a batch
_WARM_UP = 0.1  # of the fit
_STEEPEST = 1.0  # norm of the gradient
_LEAST_VARIANCE = 1e-6


@dataclass(frozen=True)
class Budget:
    """Limits of a fit: epochs over all predictions, and seconds."""

    epochs: int
    seconds: float = math.inf


def fit(
    student: nn.Module,
    answers: Sequence[Answers],
    reading: ClassScores,
    *,
    rate: float,
    budget: Budget,
    rng: np.random.Generator,
    progress: Callable[[int, int], None],
) -> int:
    """Fit a student in place; return the number of steps.

    The learning rate warms up, then decays to zero at the end of the budget, in epochs or seconds.

    Raises
    ------
    GradientError
        The fit diverges.
    """
    steps = budget.epochs * math.ceil(sum(len(a.masks) for a in answers) / (_PICTURES * _MASKS))
    device = next(each.device for each in student.parameters())
    loss_of = _Loss(answers, reading, device)
    optimiser = torch.optim.AdamW(student.parameters(), rate, weight_decay=1e-2)
    begin = time.perf_counter()
    student.train()
    for step in range(steps):
        spent = max(step / steps, (time.perf_counter() - begin) / budget.seconds)
        if spent >= 1:
            return step
        for group in optimiser.param_groups:
            group["lr"] = rate * _share(spent)
        loss = loss_of(student, rng)
        if not loss.isfinite():
            raise GradientError("the fit of the student diverged: its loss is NaN; change seed=")
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(student.parameters(), _STEEPEST)
        optimiser.step()
        progress(step + 1, steps)
    return steps


def _share(spent: float) -> float:
    """Return the fraction of the learning rate after a fraction of the budget."""
    if spent < _WARM_UP:
        return (spent + 0.01) / (_WARM_UP + 0.01)
    return 0.5 * (1 + math.cos(math.pi * (spent - _WARM_UP) / (1 - _WARM_UP)))


class _Loss:
    """The loss of a student on a random batch of predictions."""

    def __init__(
        self, answers: Sequence[Answers], reading: ClassScores, device: torch.device
    ) -> None:
        self._answers, self._reading, self._device = answers, reading, device
        counts = np.array([len(each.masks) for each in answers])
        self._weights = counts / counts.sum()
        of_class = [
            floored(self._logs(each), reading)[:, each.index].var(correction=0) for each in answers
        ]
        self._variance = max(float(torch.stack(of_class).mean()), _LEAST_VARIANCE)

    def __call__(self, student: nn.Module, rng: np.random.Generator) -> Tensor:
        images, logs, classes = self._batch(rng)
        found = log_probabilities(student(images), self._reading)
        return cross_entropy(found, logs, self._reading) + self._differences(found, logs, classes)

    def _batch(self, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Draw images [N, C, H, W], log-probabilities [N, K], and each image's class [P]."""
        count = min(_PICTURES, len(self._answers))
        pictures = rng.choice(len(self._answers), count, replace=False, p=self._weights)
        images, logs = [], []
        for picture in pictures:
            every = self._answers[picture]
            chosen = rng.choice(len(every.masks), _MASKS, replace=len(every.masks) < _MASKS)
            images.append(every.images(chosen))
            logs.append(self._logs(every, chosen))
        classes = torch.tensor([self._answers[picture].index for picture in pictures])
        batch = torch.from_numpy(np.concatenate(images)), torch.cat(logs), classes
        return batch[0].to(self._device), batch[1].to(self._device), batch[2].to(self._device)

    def _logs(self, answers: Answers, chosen: npt.NDArray[np.intp] | slice = slice(None)) -> Tensor:
        """Return the deployed model's log-probabilities of an image under masks, [n, K]."""
        return log_probabilities(torch.from_numpy(answers.scores[chosen]), self._reading)

    def _differences(self, found: Tensor, logs: Tensor, classes: Tensor) -> Tensor:
        """Return the variance of the error over one image's masks, relative to the predictions'."""
        place = classes.repeat_interleave(len(found) // len(classes))[:, None]
        of_class = [
            floored(each, self._reading).gather(1, place).reshape(len(classes), -1)
            for each in (found, logs)
        ]
        return (of_class[0] - of_class[1]).var(1).mean() / self._variance

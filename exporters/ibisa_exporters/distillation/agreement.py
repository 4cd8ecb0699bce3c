"""How well a student agrees with the deployed model, and whether that is enough to certify it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from ibisa_exporters.distillation.answers import Answers
from ibisa_exporters.distillation.scores import floored, log_probabilities
from ibisa_onnx.metrics.correlation import pearson, rank_correlation
from ibisa_onnx.targets.class_scores import ClassScores

LEAST_CORRELATION, LEAST_TOP1 = 0.95, 0.6
"""What a certificate asks for: see docs/how-to/distil.md for what maps are worth from there on."""
_STILL = 1e-3  # nats: below, an answer does not depend on the mask
_BATCH = 16


@dataclass(frozen=True)
class Agreement:
    """Of a student with the deployed model, over pictures under masks it was not fitted to.

    Attributes
    ----------
    pictures, masks
        How many pictures, and how many masks of each.
    top1
        Share of masked pictures for which both predict the same class.
    pearson, spearman
        Correlation of both log-probabilities of the picture's class over the masks of one picture;
        mean over pictures. NaN where no answer depends on the masks.
    """

    pictures: int
    masks: int
    top1: float
    pearson: float
    spearman: float

    @property
    def holds(self) -> bool:
        """Whether it is enough for a certificate."""
        return self.pearson >= LEAST_CORRELATION and self.top1 >= LEAST_TOP1

    @property
    def unknown(self) -> bool:
        """Whether no answer depends on the masks, so that there is nothing to agree on."""
        return self.pearson != self.pearson

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data; what is not known is None."""
        return {name: None if value != value else value for name, value in asdict(self).items()}

    def __str__(self) -> str:
        return (
            f"top-1 {self.top1:.0%}, Pearson {self.pearson:.2f}, Spearman {self.spearman:.2f} over "
            f"{self.masks} masks of each of {self.pictures} pictures"
        )


def agreement(student: nn.Module, held_out: Sequence[Answers], reading: ClassScores) -> Agreement:
    """Measure the agreement on answers that the student was not fitted to."""
    same, linear, ranked = [], [], []
    for answers in held_out:
        found, wanted = _scores(student, answers), torch.from_numpy(answers.scores)
        same.append(float((found.argmax(1) == wanted.argmax(1)).float().mean()))
        logs = [
            floored(log_probabilities(each, reading), reading)[:, answers.index].numpy()
            for each in (found, wanted)
        ]
        if logs[1].std() > _STILL:
            linear.append(pearson(*logs))
            ranked.append(rank_correlation(*logs))
    masks = min(len(answers.masks) for answers in held_out)
    return Agreement(len(held_out), masks, _mean(same), _mean(linear), _mean(ranked))


def _scores(student: nn.Module, answers: Answers) -> torch.Tensor:
    """Return the student's scores of all masks, float32 [M, K] on the CPU."""
    device = next((each.device for each in student.parameters()), torch.device("cpu"))
    blocks = [slice(i, i + _BATCH) for i in range(0, len(answers.masks), _BATCH)]
    with torch.inference_mode():
        parts = [student(torch.from_numpy(answers.images(b)).to(device)).cpu() for b in blocks]
    return torch.cat(parts)


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else float("nan")

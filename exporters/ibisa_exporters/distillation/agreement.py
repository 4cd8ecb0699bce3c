"""Agreement of a student with the deployed model, and the threshold of certification."""

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
"""Thresholds of certification; docs/how-to/distil.md shows the quality of maps above them."""
_STILL = 1e-3  # nats: below this, a prediction does not depend on the masks
_BATCH = 16


@dataclass(frozen=True)
class Agreement:
    """Agreement of a student with the deployed model on masked images it was not fitted to.

    Attributes
    ----------
    pictures
        Number of images.
    masks
        Number of masks per image.
    top1
        Fraction of masked images for which both predict the same class.
    pearson, spearman
        Correlation of the log-probabilities of the image's class over the masks of one image, mean
        over images. NaN if no prediction depends on the masks.
    """

    pictures: int
    masks: int
    top1: float
    pearson: float
    spearman: float

    @property
    def holds(self) -> bool:
        """Whether the agreement is sufficient for certification."""
        return self.pearson >= LEAST_CORRELATION and self.top1 >= LEAST_TOP1

    @property
    def unknown(self) -> bool:
        """Whether the agreement is undefined because no prediction depends on the masks."""
        return self.pearson != self.pearson

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as plain data; undefined ones are None."""
        return {name: None if value != value else value for name, value in asdict(self).items()}

    def __str__(self) -> str:
        return (
            f"top-1 {self.top1:.0%}, Pearson {self.pearson:.2f}, Spearman {self.spearman:.2f} over "
            f"{self.masks} masks of each of {self.pictures} images"
        )


def agreement(student: nn.Module, held_out: Sequence[Answers], reading: ClassScores) -> Agreement:
    """Measure the agreement on predictions that the student was not fitted to."""
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

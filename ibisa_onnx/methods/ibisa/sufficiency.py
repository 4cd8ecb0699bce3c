"""Whether a map is right by the model itself: the most needed pixels are shown to it, alone."""

from __future__ import annotations

import numpy as np

from ibisa_onnx.explanation import Sufficiency
from ibisa_onnx.gradients.masked_images import Floats
from ibisa_onnx.methods.problem import Problem

SUFFICIENCY_AREAS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75)
"""Fractions of the picture that are shown, most needed first, to check a map: a pass each, and one
for the whole picture, which shows that the images of a batch do not mix."""

IMAGES = len(SUFFICIENCY_AREAS) + 1
"""How many images a check shows."""


def check_sufficiency(problem: Problem, row: int, keep: Floats) -> Sufficiency:
    """Show the model the most needed pixels of one picture alone, over the baseline.

    Parameters
    ----------
    row
        Which answer of the problem.
    keep
        float32 [h, w], the size of the model's input.
    """
    rank = np.empty(keep.size, np.float32)
    coldness = (65535 * (1 - keep.ravel())).astype(np.uint16)  # sorted in linear time
    rank[np.argsort(coldness, kind="stable")] = np.arange(len(rank))
    areas = np.array((*SUFFICIENCY_AREAS, 1), np.float32)[:, None, None, None]
    shown = rank.reshape(1, 1, *keep.shape) < areas * len(rank)
    masked, rows = problem.masked.take([row]), [row] * IMAGES
    images = np.where(shown, masked.images, masked.baselines)
    batch, scores = problem.model.max_batch, problem.score(images, rows)
    if problem.mixes(float(scores[-1]), batch, row):
        scores = problem.score(images, rows)
    return Sufficiency(SUFFICIENCY_AREAS, tuple(float(score) for score in scores[:-1]))

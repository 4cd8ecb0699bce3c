"""Whether a map is right by the model itself: the most needed pixels are shown to it, alone."""

from __future__ import annotations

import numpy as np

from ibisa_onnx.explanation import Sufficiency
from ibisa_onnx.gradients.masked_images import Floats
from ibisa_onnx.methods.problem import Problem

IMAGES = 8
"""How many images a check shows, the baselines and the whole picture among them."""

_AREAS = (0.05, 0.2, 0.5, 0.3, 0.1, 0.75)
"""Fractions of the picture that are shown, most needed first; the most telling come first."""


def check_sufficiency(problem: Problem, row: int, keep: Floats, images: int) -> Sufficiency:
    """Show the model the most needed pixels of one picture alone, over the baseline.

    Parameters
    ----------
    row
        Which answer of the problem; its baseline is known.
    keep
        float32 [h, w], the size of the model's input.
    images
        How many parts are shown.
    """
    areas, baseline = sorted(_AREAS[:images]), problem.rows[row].baselines[0]
    rank = np.empty(keep.size, np.float32)
    coldness = (65535 * (1 - keep.ravel())).astype(np.uint16)  # sorted in linear time
    rank[np.argsort(coldness, kind="stable")] = np.arange(len(rank))
    shown = rank.reshape(1, 1, *keep.shape) < len(rank) * np.reshape(areas, (-1, 1, 1, 1))
    masked = problem.masked.take([row])
    parts = np.where(shown, masked.images, masked.baselines)
    scores = problem.score(parts, [row] * len(parts))
    return Sufficiency((0.0, *areas), (baseline.score, *map(float, scores)))

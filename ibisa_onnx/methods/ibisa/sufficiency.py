"""Check of a map with the model itself: the highest-ranked pixels are shown to it alone."""

from __future__ import annotations

import numpy as np

from ibisa_onnx.gradients.masked_images import Floats
from ibisa_onnx.methods.problem import Problem
from ibisa_onnx.statements import Sufficiency

IMAGES = 8
"""Number of images that a check shows, including the baselines and the whole image."""

_AREAS = (0.05, 0.2, 0.5, 0.3, 0.1, 0.75)
"""Fractions of the image that are shown, highest-ranked pixels first; in order of importance."""


def check_sufficiency(problem: Problem, row: int, keep: Floats, images: int) -> Sufficiency:
    """Show the model only the highest-ranked pixels of one image, over the baseline.

    Parameters
    ----------
    problem
        The problem.
    row
        Row of the problem, whose baseline is known.
    keep
        Map, float32 [h, w], of the model input's size.
    images
        Number of fractions that are shown.
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

"""Estimators of IBISA's gradient that lose to finite differences, for `forward_only.py`.

- `spsa`: simultaneous perturbation, the mean over pairs of random signs (Spall, IEEE Transactions
  on Automatic Control 37:332, 1992, eq. 2.2).
- `rloo`: the score function over Bernoulli masks, with the mean of the other scores subtracted
  from each (Kool, van Hoof and Welling, "Buy 4 REINFORCE samples, get a baseline for free", 2019).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np

from ibisa_onnx import Explainer
from ibisa_onnx.methods.ibisa.finite_difference import (
    Estimator,
    MaskQueries,
    central_differences,
    spread_evenly,
    step_of,
)
from ibisa_onnx.methods.ibisa.method import Ibisa
from ibisa_onnx.methods.ibisa.optimizer import Step
from ibisa_onnx.methods.masking import sigmoid

CELLS = 7  # of the grid, as RISE's


def equal_parts(ask: MaskQueries, queries: int, steps: int) -> list[int]:
    """Return the number of queries of each step: pairs, and the same for all."""
    pair = ask.cost(2)
    steps = max(1, min(steps, queries // pair))
    return [queries // steps // pair * pair] * steps


def spsa(ask: MaskQueries, plan: Sequence[int], rng: np.random.Generator) -> Step:
    """Average the derivatives along random signs, each times its signs."""
    parts = iter(plan)

    def estimate(logits: np.ndarray, noise: np.ndarray) -> np.ndarray:
        shape, pairs = ask.shape(CELLS), next(parts) // 2
        signs = rng.choice([-1.0, 1.0], (pairs, *shape))
        derivatives = central_differences(ask, logits, noise, signs)
        return spread_evenly(np.tensordot(derivatives, signs, 1) / pairs, logits.shape)

    return step_of(estimate)


def rloo(ask: MaskQueries, plan: Sequence[int], rng: np.random.Generator) -> Step:
    """Correlate log p with Bernoulli masks, whose log-likelihood has the derivative s - lambda."""
    parts = iter(plan)

    def estimate(logits: np.ndarray, _: np.ndarray) -> np.ndarray:
        shape, count = ask.shape(CELLS), next(parts)
        keep = sigmoid(cv2.resize(logits, shape[::-1], interpolation=cv2.INTER_AREA))
        masks = (rng.random((count, *shape)) < keep).astype(np.float32)
        scores = ask.log_p(masks)
        # s_i less the mean of the others is (s_i - mean) n / (n - 1)
        advantages = (scores - scores.mean()) / (count - 1)
        return spread_evenly(np.tensordot(advantages, masks - keep, 1), logits.shape)

    return step_of(estimate)


ESTIMATORS = {
    name: Estimator(equal_parts, lambda _, part: part, step)
    for name, step in {"spsa": spsa, "rloo": rloo}.items()
}


def with_estimator(explainer: Explainer, name: str) -> Ibisa:
    """Return the method of an explainer, whose gradient is "finite-difference", by another one."""
    assert isinstance(explainer.method, Ibisa)
    return replace(explainer.method, estimator=ESTIMATORS[name])

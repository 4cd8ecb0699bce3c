"""The score that metrics use, calibrated to [0, 1] if it is not a probability."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ibisa_onnx.methods.problem import Problem
from ibisa_onnx.metrics.verdict import JUDGES
from ibisa_onnx.targets.base import Objective


def calibrated(problem: Problem) -> Problem:
    """Return a problem whose score runs from 0 (image hidden) to 1 (unmodified image).

    A score such as a similarity hardly varies on its own scale. The image is hidden by the
    imputations of `JUDGES` and by the blank, one pass each, and not by the baselines of a method:
    a metric must not depend on the method it evaluates. Probabilities need no calibration and cost
    no passes.
    """
    objective, image = problem.row.objective, problem.image[0]
    if type(objective).calibrated is Objective.calibrated:
        return problem
    problem.check_batch_independence()
    everything = np.ones(image.shape[1:], bool)
    hidden = [each.of(image)(everything) for each in JUDGES]
    hidden.append(np.broadcast_to(problem.blank, image.shape))
    raw = problem.model.run(np.stack(hidden), objective.outputs, problem.passes)
    return asking(problem, objective.calibrated(problem.row.answer, raw))


def asking(problem: Problem, objective: Objective) -> Problem:
    """Return the problem with another objective for the same prediction."""
    return replace(problem, rows=(replace(problem.row, objective=objective),))

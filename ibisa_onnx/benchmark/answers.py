"""The answer that is measured, brought to 0..1 where it is not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ibisa_onnx.methods.problem import Problem
from ibisa_onnx.metrics.verdict import JUDGES
from ibisa_onnx.targets.base import Objective


def calibrated(problem: Problem) -> Problem:
    """Return a problem whose answer is 0 to 1 between where the picture is hidden and the picture.

    What is a probability only between the two, as a similarity is, hardly moves otherwise. The
    picture is hidden by the imputations of `JUDGES` and by the blank, for a pass each, and not by
    the baselines of a method: a measure must not depend on what it measures. Of probabilities
    nothing is asked.
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
    """Return the problem of another objective of the same answer."""
    return replace(problem, rows=(replace(problem.row, objective=objective),))

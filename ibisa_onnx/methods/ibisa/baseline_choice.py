"""Choice of each row's baseline, by the deployed model's scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ibisa_onnx.errors import OutputError
from ibisa_onnx.gradients.masked_images import Floats, MaskedImages
from ibisa_onnx.methods.baselines import AUTO, BASELINES, BLUR, choices
from ibisa_onnx.methods.problem import Problem, Row, RowBaseline
from ibisa_onnx.targets.base import USUAL_BASELINES, Raw
from ibisa_onnx.targets.retention import LOST, Retention, is_log_probability, log_odds

_TURNS = 2  # baselines that rounds alternate between
_LEAST_ODDS = 1e-3  # nats: smaller differences are rounding
_ROUNDING = 1e-6  # relative to an output's largest value


def count_of(baseline: str) -> int:
    """Return how many images per explained image `settle_baselines` runs."""
    return 1 + (len(USUAL_BASELINES) if baseline == AUTO else 1)


def settle_baselines(problem: Problem, baseline: str) -> Problem:
    """Score the baselines of each image, together with the image itself, and choose among them.

    The image reveals whether a batch mixes its images.

    Parameters
    ----------
    problem
        The problem; its masked images have the blur, or the named baseline.
    baseline
        "auto" to choose among the candidates of the objectives' family; or the name of the
        problem's own baseline.

    Returns
    -------
    Problem
        With the chosen baselines of each row, and their scores.
    """
    names, rows = _names(problem, baseline), list(problem.rows)
    shown = [_candidates(problem, group[0], names) for group in problem.pictures]
    answers = problem.ask_pictures(shown)
    for group, images, (raw, asked) in zip(problem.pictures, shown, answers, strict=True):
        differ = not np.allclose(images[1:], images[:1])  # a uniform image is its own baseline
        for number in group:
            row = _calibrated(rows[number], raw)
            scores = _scores(row, raw)
            order = choices(names, scores, row.probability)[:_TURNS]
            levels = row.scores(raw)[1:]
            found = (
                RowBaseline(names[k], images[1 + k], float(scores[k]), float(levels[k]))
                for k in order
            )
            blind = differ and _alike([raw[name] for name in row.objective.outputs])
            rows[number] = replace(row, baselines=tuple(found), blind=blind, asked=asked)
    return _hidden_by(problem, rows, [row.baselines[0] for row in rows])


def for_rounds(problem: Problem, rounds: Sequence[int]) -> Problem:
    """Return the problem of several rounds of each row, [N R], which the steps solve.

    Rounds alternate between the row's baselines. If a baseline does not lose the probability, but
    the log-odds distinguish it from the image, the retained log-odds become the objective.
    """
    rows = [(row, number) for row in range(len(problem)) for number in rounds]
    places = [row for row, _ in rows]
    several = tuple(problem.rows[row] for row in places)
    repeated = replace(problem, masked=problem.masked.take(places), rows=several)
    if not all(row.baselines for row in several):
        return repeated
    turns = [
        row.baselines[number % len(row.baselines)]
        for row, (_, number) in zip(several, rows, strict=True)
    ]
    kept = [_retained(row, each) for row, each in zip(several, turns, strict=True)]
    return _hidden_by(repeated, kept, turns)


def _hidden_by(problem: Problem, rows: Sequence[Row], baselines: Sequence[RowBaseline]) -> Problem:
    masked = MaskedImages(problem.masked.images, np.stack([each.image for each in baselines]))
    return replace(problem, rows=tuple(rows), masked=masked)


def _retained(row: Row, baseline: RowBaseline) -> Row:
    if baseline.score < LOST * row.probability or row.probability > 1:
        return row
    level = float(row.scores(row.answer)[0])
    by_score = not is_log_probability(level, row.probability)
    odds = log_odds([baseline.score, row.probability])
    kept, whole = (baseline.level, level) if by_score else map(float, odds)
    if not whole - kept > _LEAST_ODDS or not np.isfinite(whole - kept):
        return row
    return replace(row, objective=Retention(row.objective, kept, whole, by_score=by_score))


def _names(problem: Problem, baseline: str) -> tuple[str, ...]:
    if baseline != AUTO:
        return (baseline,)
    return problem.rows[0].objective.baselines[: len(USUAL_BASELINES)]


def _candidates(problem: Problem, row: int, names: Sequence[str]) -> Floats:
    """Return an image and its candidate baselines, [1 + K, C, H, W].

    The problem already has the blur, or the only one.
    """
    masked: MaskedImages = problem.masked.take([row])
    own = BLUR if len(names) > 1 else names[0]
    found = [masked.baselines if n == own else BASELINES[n](masked.images) for n in names]
    return np.concatenate([masked.images, *found])


def _calibrated(row: Row, raw: Raw) -> Row:
    """Return a row whose objective is calibrated with the baselines' scores."""
    hidden = {name: raw[name][1:] for name in row.objective.outputs}
    return replace(row, objective=row.objective.calibrated(row.answer, hidden))


def _scores(row: Row, raw: Raw) -> npt.NDArray[np.float64]:
    """Return a row's probability for each baseline, [K]; infinite if it is not a number.

    Raises
    ------
    OutputError
        None of them is a number.
    """
    found = row.probabilities(raw)[1:]
    if not np.isfinite(found).any():
        raise OutputError(
            "the prediction is NaN or infinite for every baseline",
            "pass another baseline=, such as a colour or an image",
        )
    return np.where(np.isfinite(found), found, np.inf)


def _alike(outputs: Sequence[npt.NDArray[Any]]) -> bool:
    """Return whether outputs [K, ...] are equal for all images, up to rounding."""
    return all(
        float(np.abs(each[1:] - each[:1]).max()) <= _ROUNDING * float(np.abs(each).max())
        for each in (np.asarray(values, np.float64) for values in outputs)
    )

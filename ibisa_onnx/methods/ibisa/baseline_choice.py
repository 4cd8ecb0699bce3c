"""Which baseline stands for each answer, settled by what the deployed model says of it."""

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
from ibisa_onnx.targets.retention import LOST, Retention, log_odds

_TURNS = 2  # baselines that rounds take in turn
_LEAST_ODDS = 1e-3  # nats: nearer to the picture's own is rounding
_ROUNDING = 1e-6  # of an output's largest value


def count_of(baseline: str) -> int:
    """Return how many images `settle_baselines` asks about for a picture."""
    return 1 + (len(USUAL_BASELINES) if baseline == AUTO else 1)


def settle_baselines(problem: Problem, baseline: str) -> Problem:
    """Ask the model about the baselines of each picture, and beside them the picture itself.

    The picture shows whether the images of a batch mix.

    Parameters
    ----------
    baseline
        "auto", where the problem has the blur, and objectives of one family say what may take its
        place; or the name of the one that it has.

    Returns
    -------
    Problem
        With the baselines of each row, and what is known of them.
    """
    names, rows = _names(problem, baseline), list(problem.rows)
    shown = [_candidates(problem, group[0], names) for group in problem.pictures]
    answers = problem.ask_pictures(shown)
    for group, images, (raw, asked) in zip(problem.pictures, shown, answers, strict=True):
        differ = not np.allclose(images[1:], images[:1])  # a picture of nothing is its own baseline
        for number in group:
            row = _calibrated(rows[number], raw)
            scores = _scores(row, raw)
            order = choices(names, scores, row.probability)[:_TURNS]
            found = (RowBaseline(names[k], images[1 + k], float(scores[k])) for k in order)
            blind = differ and _alike([raw[name] for name in row.objective.outputs])
            rows[number] = replace(row, baselines=tuple(found), blind=blind, asked=asked)
    return _hidden_by(problem, rows, [row.baselines[0] for row in rows])


def for_rounds(problem: Problem, rounds: Sequence[int]) -> Problem:
    """Return the problem of several rounds of each row, [N R]: what the steps explain.

    The rounds hide the picture in turn by the baselines of the row. Retention takes the place of a
    probability that its baseline does not lose, where log-odds tell picture and baseline apart.
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
    kept, whole = log_odds([baseline.score, row.probability])
    if whole - kept <= _LEAST_ODDS:
        return row
    return replace(row, objective=Retention(row.objective, float(kept), float(whole)))


def _names(problem: Problem, baseline: str) -> tuple[str, ...]:
    if baseline != AUTO:
        return (baseline,)
    return problem.rows[0].objective.baselines[: len(USUAL_BASELINES)]


def _candidates(problem: Problem, row: int, names: Sequence[str]) -> Floats:
    """Return an image, and the baselines that it might have: [1 + K, C, H, W].

    What the problem has already is the blur, or the only one.
    """
    masked: MaskedImages = problem.masked.take([row])
    own = BLUR if len(names) > 1 else names[0]
    found = [masked.baselines if n == own else BASELINES[n](masked.images) for n in names]
    return np.concatenate([masked.images, *found])


def _calibrated(row: Row, raw: Raw) -> Row:
    """Return a row whose objective knows what is left of it where the picture is hidden."""
    hidden = {name: raw[name][1:] for name in row.objective.outputs}
    return replace(row, objective=row.objective.calibrated(row.answer, hidden))


def _scores(row: Row, raw: Raw) -> npt.NDArray[np.float64]:
    """Return what a row's objective is for each baseline, [K]; infinite where it is no number.

    Raises
    ------
    OutputError
        It is none for all of them.
    """
    found = row.probabilities(raw)[1:]
    if not np.isfinite(found).any():
        raise OutputError(
            "the model's answer is NaN or infinite where the picture is hidden",
            "name another baseline=, such as a colour or a picture",
        )
    return np.where(np.isfinite(found), found, np.inf)


def _alike(outputs: Sequence[npt.NDArray[Any]]) -> bool:
    """Tell whether outputs [K, ...] are the same for all images, but for rounding."""
    return all(
        float(np.abs(each[1:] - each[:1]).max()) <= _ROUNDING * float(np.abs(each).max())
        for each in (np.asarray(values, np.float64) for values in outputs)
    )

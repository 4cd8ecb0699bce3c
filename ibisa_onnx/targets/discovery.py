"""Which of a model's outputs holds class scores, and what to say where none does.

Told by shapes before the model has run, and by values after; how scores are
read is in `class_scores`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ibisa_onnx.errors import OutputError
from ibisa_onnx.models.signature import TensorInfo

Values = Mapping[str, npt.NDArray[Any]]


def candidates(outputs: Sequence[TensorInfo], wanted: str | None) -> list[str]:
    """Name the outputs that may hold one score for each class: `wanted`, or all whose shape fits.

    Raises
    ------
    OutputError
        None may.
    """
    if wanted is not None:
        return [wanted]
    names = [each.name for each in outputs if _may_hold_scores(each, outputs)]
    if not names:
        raise OutputError(_no_scores(outputs))
    return names


def find_scores(raws: Values, outputs: Sequence[TensorInfo], wanted: str | None) -> str:
    """Name the one output that holds one score for each class.

    Parameters
    ----------
    raws
        Raw values of the candidates for one image, [1, ...].
    outputs
        All outputs of the model.
    wanted
        What the user named.

    Raises
    ------
    OutputError
        None does, or several do.
    """
    fitting = [name for name, raw in raws.items() if _holds_scores(raw)]
    fitting = [name for name in fitting if raws[name].dtype.kind == "f"] or fitting
    if wanted is not None and not fitting:
        raise OutputError(_not_this_one(wanted, outputs))
    if not fitting:
        raise OutputError(_no_scores(outputs))
    if len(fitting) > 1:
        raise OutputError(
            f"outputs {', '.join(fitting)} can all hold class scores; choose with output=NAME"
        )
    return fitting[0]


def class_count(outputs: Sequence[TensorInfo], wanted: str | None) -> int | None:
    """Tell by the shapes how many classes a model has, None where they do not say."""
    named = [each for each in outputs if each.name == wanted]
    if wanted is None:
        named = [each for each in outputs if _may_hold_scores(each, outputs)]
    if len(named) != 1:
        return None
    sides = [side for side in named[0].shape[1:] if side != 1]
    return sides[0] if len(sides) == 1 and isinstance(sides[0], int) else None


def _may_hold_scores(output: TensorInfo, outputs: Sequence[TensorInfo]) -> bool:
    """Tell by the shapes whether an output may be one score for each class."""
    if not output.shape:
        return True
    sides = [side for side in output.shape[1:] if isinstance(side, int) and side != 1]
    beside_boxes = any(
        len(each.shape) == 3 and sides == [each.shape[1]] and each.shape[2] == 4 for each in outputs
    )
    return len(output.shape) > 1 and len(sides) <= 1 and not beside_boxes


def _holds_scores(raw: npt.NDArray[Any]) -> bool:
    """Tell by the values whether an output is one score for each class."""
    return raw.ndim > 1 and raw.dtype.kind in "fiu" and max(raw.shape[1:]) == np.size(raw[0]) > 0


def _not_this_one(wanted: str, outputs: Sequence[TensorInfo]) -> str:
    """Say why the output that was named will not do, and which might."""
    others = [each for each in outputs if each.name != wanted and _may_hold_scores(each, outputs)]
    if not others:
        return _no_scores(outputs)
    said = next(_described(each) for each in outputs if each.name == wanted)
    names = ", ".join(each.name for each in others)
    return f"output {said} is not one score for each class; these may be: output={names}"


def _no_scores(outputs: Sequence[TensorInfo]) -> str:
    """Say that a model is no classifier, what its outputs are, and what would make it one."""
    advice = next((remedy for each in outputs for _, remedy in [_kind(each)] if remedy), _ANY)
    return (
        f"no output is one score for each class [N, K]: {'; '.join(map(_described, outputs))}; "
        "output= chooses only among outputs of such scores, and target= a class of one, "
        f"so export the model with one more output: {advice}"
    )


def _described(output: TensorInfo) -> str:
    kind, _ = _kind(output)
    return f"{output} ({kind})" if kind else str(output)


_ANY = "the scores of the classes"


def _kind(output: TensorInfo) -> tuple[str, str]:
    """Return what an output looks like, and which class scores could be made from it."""
    spatial = len(output.shape) == 4 or (len(output.shape) == 3 and "int" in output.dtype)
    if "int" in output.dtype:
        if not spatial:
            return "class indices", "the scores before the ArgMax"
        return (
            "a class index for each pixel, a segmenter's",
            "the scores before the ArgMax, averaged over the pixels",
        )
    if spatial:
        return "scores for each pixel, a segmenter's", "each class's mean score over the pixels"
    if len(output.shape) == 3:
        return "rows of values, a detector's", "each class's largest score over the rows"
    return "", ""

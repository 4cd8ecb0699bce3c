"""Models that give NaN when they are run on noise: nothing of theirs tells what they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ibisa_onnx.errors import OutputError
from ibisa_onnx.targets.base import Answer, Context, Kind, Raw, TargetSpec
from ibisa_onnx.targets.classification import UNKNOWN, VALUES
from ibisa_onnx.targets.facts import ModelFacts
from ibisa_onnx.targets.output_kinds import OutputKinds

_ADVICE = "check the preprocessing (ibisa-onnx inspect) or the model file"


class UnreadKind(Kind):
    """A model whose kind is not known, for its values are NaN.

    Parameters
    ----------
    names
        The tensors that hold NaN.
    """

    name = UNKNOWN
    asks = (VALUES,)

    def __init__(self, names: Sequence[str]) -> None:
        self.reason = f"{', '.join(names)}, run on noise, gives NaN, which tells nothing"

    def outputs(self) -> tuple[str, ...]:
        """Raise `OutputError`: none is known to hold an answer."""
        raise OutputError(f"the model's kind is not known: {self.reason}", _ADVICE)

    def target(self, wanted: str | int | None) -> TargetSpec:
        """Raise `OutputError`: no word means anything."""
        raise OutputError(f"the model's kind is not known: {self.reason}", _ADVICE)

    def answers(self, raw: Raw, context: Context) -> list[Answer]:
        """Return nothing."""
        return []


def find(facts: ModelFacts) -> UnreadKind | None:
    """Recognise a model by NaN in what it was tried on, where nothing may be class scores."""
    names = [name for name, values in facts.probed.items() if _is_nan(values)]
    kinds = OutputKinds(facts.outputs, facts.batch, facts.makers)
    if any(kinds.may_hold_scores(each) and each.name not in names for each in facts.outputs):
        return None
    return UnreadKind(names) if names else None


def _is_nan(values: npt.NDArray[Any]) -> bool:
    several = sum(side != 1 for side in values.shape[1:]) > 1
    return several and values.dtype.kind == "f" and bool(np.isnan(values).any())

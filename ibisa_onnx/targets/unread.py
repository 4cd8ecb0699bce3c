"""Models that return NaN for noise, so that their kind cannot be determined."""

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
    """Model of unknown kind, because its values are NaN.

    Parameters
    ----------
    names
        Tensors that contain NaN.
    """

    name = UNKNOWN
    asks = (VALUES,)

    def __init__(self, names: Sequence[str]) -> None:
        self.reason = f"{', '.join(names)} is NaN when the model is run on noise"

    def outputs(self) -> tuple[str, ...]:
        """Raise `OutputError`: no output is known to hold a prediction."""
        raise OutputError(f"the model's kind cannot be determined: {self.reason}", _ADVICE)

    def target(self, wanted: str | int | None) -> TargetSpec:
        """Raise `OutputError`: no target can be resolved."""
        raise OutputError(f"the model's kind cannot be determined: {self.reason}", _ADVICE)

    def answers(self, raw: Raw, context: Context) -> list[Answer]:
        """Return nothing."""
        return []


def find(facts: ModelFacts) -> UnreadKind | None:
    """Recognise a model by NaN in its probes, unless some output may hold class scores."""
    names = [name for name, values in facts.probed.items() if _is_nan(values)]
    kinds = OutputKinds(facts.outputs, facts.batch, facts.makers)
    if any(kinds.may_hold_scores(each) and each.name not in names for each in facts.outputs):
        return None
    return UnreadKind(names) if names else None


def _is_nan(values: npt.NDArray[Any]) -> bool:
    several = sum(side != 1 for side in values.shape[1:]) > 1
    return several and values.dtype.kind == "f" and bool(np.isnan(values).any())

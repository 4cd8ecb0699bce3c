"""D-RISE: how like a detection some box stays, averaged over random masks.

After Petsiuk et al., Black-box explanation of object detectors via saliency maps, CVPR 2021. The
masks are RISE's with finer cells; the score of a mask is the best of all boxes, by overlap, by the
cosine of their class scores, and by how sure they are (equation 3).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from ibisa_onnx.errors import TargetError
from ibisa_onnx.methods.base import AttributionResult
from ibisa_onnx.methods.problem import Problem
from ibisa_onnx.methods.rise import PreparedRise, Rise
from ibisa_onnx.methods.stopping import Control
from ibisa_onnx.models.base import ImageModel
from ibisa_onnx.preprocessing.spec import Preprocessing
from ibisa_onnx.targets.base import Objective
from ibisa_onnx.targets.boxes import similarity_of


@dataclass(frozen=True)
class DRise:
    """D-RISE, for as many forward passes as there are masks.

    Attributes
    ----------
    masks, grid, keep
        As in `rise.rise`. The paper takes 5000 masks of 16 cells a side.
    """

    masks: int = 5000
    grid: int = 16
    keep: float = 0.5

    @property
    def name(self) -> str:
        """What it is called."""
        return "drise"

    @property
    def settings(self) -> Mapping[str, Any]:
        """The settings by name."""
        return asdict(self)

    def prepare(
        self, model: ImageModel, objective: Objective, preprocessing: Preprocessing
    ) -> PreparedDRise:
        """Return it; `TargetError` where the objective is no box."""
        if similarity_of(objective) is None:
            raise TargetError(
                f"drise explains a detector's boxes, not a {objective.describe()['kind']}; "
                "take rise"
            )
        return PreparedDRise(Rise(self.masks, self.grid, self.keep))


@dataclass(frozen=True)
class PreparedDRise(PreparedRise):
    """D-RISE for one model."""

    def run_one(
        self, problem: Problem, rng: np.random.Generator, control: Control
    ) -> Iterator[AttributionResult]:
        """Ask about all masks, or about as many as there is time for."""
        like = similarity_of(problem.row.objective)
        assert like is not None
        row = replace(problem.row, objective=like)
        yield from super().run_one(replace(problem, rows=(row,)), rng, control)

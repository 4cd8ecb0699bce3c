"""D-RISE: similarity of the best box to a detection, averaged over random masks.

Petsiuk et al., Black-box Explanation of Object Detectors via Saliency Maps, CVPR 2021. Masks are
RISE's with finer cells; the score of a mask is the largest over all boxes of overlap, times cosine
similarity of the class scores, times objectness (equation 3).
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
    """D-RISE saliency of a detector's box; one forward pass per mask.

    Petsiuk et al., CVPR 2021.

    Attributes
    ----------
    masks, grid, keep
        As in `Rise`. The paper uses 5000 masks with 16 cells per side.
    """

    masks: int = 5000
    grid: int = 16
    keep: float = 0.5

    @property
    def name(self) -> str:
        """Name of the method."""
        return "drise"

    @property
    def settings(self) -> Mapping[str, Any]:
        """Settings by name."""
        return asdict(self)

    def prepare(
        self, model: ImageModel, objective: Objective, preprocessing: Preprocessing
    ) -> PreparedDRise:
        """Return the prepared method; `TargetError` if the objective is not a box."""
        if similarity_of(objective) is None:
            raise TargetError(
                f"drise explains boxes of detectors, not a {objective.describe()['kind']}; "
                "use rise instead"
            )
        return PreparedDRise(Rise(self.masks, self.grid, self.keep))


@dataclass(frozen=True)
class PreparedDRise(PreparedRise):
    """D-RISE for one model."""

    def run_one(
        self, problem: Problem, rng: np.random.Generator, control: Control
    ) -> Iterator[AttributionResult]:
        """Query all masks, or as many as there is time for."""
        like = similarity_of(problem.row.objective)
        assert like is not None
        row = replace(problem.row, objective=like)
        yield from super().run_one(replace(problem, rows=(row,)), rng, control)

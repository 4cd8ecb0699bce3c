"""Random maps: the baseline that any method must outperform."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ibisa_onnx.methods.base import AttributionResult, RowByRow, no_gradient
from ibisa_onnx.methods.problem import Problem
from ibisa_onnx.methods.stopping import Control
from ibisa_onnx.models.base import ImageModel
from ibisa_onnx.preprocessing.spec import Preprocessing
from ibisa_onnx.statements import Completion
from ibisa_onnx.targets.base import Objective


@dataclass(frozen=True)
class RandomMap(RowByRow):
    """Uniform noise, pixel by pixel: the baseline that any method must outperform."""

    name: ClassVar[str] = "random"

    @property
    def settings(self) -> dict[str, Any]:
        """Empty: there are no settings."""
        return {}

    def prepare(
        self, model: ImageModel, objective: Objective, preprocessing: Preprocessing
    ) -> RandomMap:
        """Return itself: it is the same for all models."""
        return self

    def run_one(
        self, problem: Problem, rng: np.random.Generator, control: Control
    ) -> Iterator[AttributionResult]:
        """Draw the map."""
        size = problem.size
        control.progress(1, 1)
        certificate = no_gradient("random maps need no passes")
        done = Completion(1, 1, "steps")
        yield AttributionResult(rng.random(size, np.float32), size, done, certificate)

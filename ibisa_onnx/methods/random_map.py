"""A map of random numbers: what any method must beat."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ibisa_onnx.explainer import Explainer
from ibisa_onnx.explanation import Completion
from ibisa_onnx.gradients.selection import GradientPath
from ibisa_onnx.methods.budget import Progress
from ibisa_onnx.methods.ibisa.method import Found
from ibisa_onnx.methods.problem import Case
from ibisa_onnx.methods.stopping import Limit
from ibisa_onnx.targets.classification import ClassOutput


@dataclass(frozen=True)
class RandomMap:
    """Uniform noise, pixel by pixel."""

    name: ClassVar[str] = "random"
    path: ClassVar[GradientPath] = GradientPath("none", "random numbers ask nothing", None)

    @property
    def settings(self) -> dict[str, Any]:
        """It has none."""
        return {}

    def open(self, explainer: Explainer, output: ClassOutput) -> RandomMap:
        """Return itself: it is the same for each model."""
        return self

    def __call__(
        self, case: Case, rng: np.random.Generator, progress: Progress | None, limit: Limit
    ) -> Iterator[Found]:
        """Draw the map."""
        size = case.bottleneck.size
        if progress is not None:
            progress(1, 1)
        yield Found(rng.random(size, np.float32), size, Completion(1, 1, "steps"))

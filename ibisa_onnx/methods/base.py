"""What another way to make a map must offer, so that `Explainer.explain` takes it for IBISA.

The methods themselves are in `baselines`. Whatever makes the map, the picture is prepared, the
target chosen, the passes counted and the map brought back to the picture in the same way.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ibisa_onnx.gradients.selection import GradientPath
from ibisa_onnx.methods.budget import Progress
from ibisa_onnx.methods.ibisa.method import Found
from ibisa_onnx.methods.problem import Case
from ibisa_onnx.methods.stopping import Limit
from ibisa_onnx.targets.classification import ClassOutput

if TYPE_CHECKING:
    from ibisa_onnx.explainer import Explainer


class Attribution(Protocol):
    """A method, opened for one model."""

    @property
    def path(self) -> GradientPath:
        """Where its gradients come from; named "none" where it needs none."""

    def __call__(
        self, case: Case, rng: np.random.Generator, progress: Progress | None, limit: Limit
    ) -> Iterator[Found]:
        """Make the map of one answer; its `cells` are a saliency in 0..1.

        It is asked after each piece of work whether the limit is reached, and the last map counts.
        """


class Method(Protocol):
    """A way to make a map, with its settings; hashable, so that it is opened once."""

    @property
    def name(self) -> str:
        """What it is called."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """Its settings, for the record."""

    def open(self, explainer: Explainer, output: ClassOutput) -> Attribution:
        """Prepare it for a model, whose scores are read off `output`.

        Raises
        ------
        IbisaError
            It cannot explain this model; the message says why.
        """

"""What Grad-CAM and IBA have in common: they look at a tensor inside the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from ibisa_onnx.errors import GradientError
from ibisa_onnx.explainer import Explainer
from ibisa_onnx.gradients.layer import SpatialTensor, Tail, deployed, spatial_tensors
from ibisa_onnx.gradients.precision import rounds_coarsely
from ibisa_onnx.gradients.selection import GradientPath
from ibisa_onnx.methods.problem import Case
from ibisa_onnx.targets.classification import ClassOutput

_IN_SINGLE, _IN_FEWER_BITS = 1e-3, 2e-2  # what rounding makes of a probability

Choice = Callable[[tuple[SpatialTensor, ...]], SpatialTensor | None]


@dataclass(frozen=True)
class Layer:
    """A tensor of a model, and the model cut open there."""

    tensor: SpatialTensor
    tail: Tail
    output: ClassOutput
    path: GradientPath

    def difference(self, case: Case, raw: npt.NDArray[Any]) -> float:
        """Return how far the tail's answer is from the model's own, in probability."""
        return abs(float(self.output.probabilities(raw)[0, case.index]) - case.answer)


def open_layer(
    explainer: Explainer, output: ClassOutput, method: str, name: str | None, choice: Choice
) -> Layer:
    """Cut a model open at a tensor that is named, or else chosen.

    Raises
    ------
    GradientError
        The model has no graph, no tensor of that name, or none to choose.
    """
    model = deployed(explainer.model, method)
    tensors = spatial_tensors(model, output.name, explainer.preprocessing.spec.size)
    chosen = choice(tensors)
    if name is not None:
        chosen = next((each for each in tensors if each.name == name), None)
        if chosen is None:
            raise GradientError(
                f"{method}: the model has no float tensor {name!r} of shape [N, C, h, w] between "
                f"image and scores; there are {_some(tensors)}"
            )
    if chosen is None:
        raise GradientError(f"{method}: no tensor of the model has the shape [N, C, h, w]")
    reason = f"at {chosen.name}, {chosen.channels} x {chosen.height} x {chosen.width}"
    tolerance = _IN_FEWER_BITS if rounds_coarsely(model, output.name) else _IN_SINGLE
    path = GradientPath("exact", reason, None, tolerance=tolerance)
    return Layer(chosen, Tail(model, chosen.name, output.name), output, path)


def _some(tensors: tuple[SpatialTensor, ...]) -> str:
    """Name the last few."""
    names = [each.name for each in tensors[-5:]]
    more = "" if len(tensors) <= len(names) else f" and {len(tensors) - len(names)} before"
    return f"{', '.join(names) or 'none'}{more}"

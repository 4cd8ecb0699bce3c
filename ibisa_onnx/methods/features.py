"""Features inside the model, shared by Grad-CAM and IBA."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ibisa_onnx.errors import GradientError
from ibisa_onnx.gradients.class_activation import deep_features
from ibisa_onnx.gradients.layer import (
    Array,
    SpatialTensor,
    SplitModel,
    last_spatial,
    spatial_tensors,
)
from ibisa_onnx.gradients.precision import rounds_coarsely
from ibisa_onnx.methods.problem import Problem
from ibisa_onnx.models.onnx_session import DeployedModel
from ibisa_onnx.statements import Certificate
from ibisa_onnx.targets.base import Objective

_IN_SINGLE, _IN_FEWER_BITS = 1e-3, 2e-2  # probabilities differ by rounding

_STRIDE = 8  # minimum input pixels per feature before an output that is a map itself

Choice = Callable[[tuple[SpatialTensor, ...]], SpatialTensor | None]


@dataclass(frozen=True)
class LayerSplit:
    """A tensor inside a model, and the model split at it."""

    tensor: SpatialTensor
    split: SplitModel
    reason: str
    tolerance: float

    def certificate(self, problem: Problem, objective: Objective, raw: Array) -> Certificate:
        """Return how closely the tail behind the tensor reproduces the model's own probability."""
        found = float(objective.probability({self.split.output: raw})[0])
        difference = abs(found - problem.row.probability)
        holds = difference <= self.tolerance
        return Certificate("exact", self.reason, difference, self.tolerance, holds)


def only_output(objective: Objective, method: str) -> str:
    """Return the only output that an objective reads; `GradientError` if there are several."""
    if len(objective.outputs) != 1:
        raise GradientError(f"{method} explains a single output, not {len(objective.outputs)}")
    return objective.outputs[0]


def open_layer(
    model: DeployedModel,
    output: str,
    size: tuple[int, int],
    method: str,
    name: str | None,
    choice: Choice,
) -> LayerSplit:
    """Split a model at a named tensor, or at the one that `choice` selects.

    Parameters
    ----------
    model
        The model.
    output
        Tensor that is explained.
    size
        Height and width of the model input.
    method
        Name of the method, for errors.
    name
        Name of the tensor; None to choose it.
    choice
        Selects one of the spatial tensors, or None.

    Raises
    ------
    GradientError
        The model has no such tensor.
    """
    tensors = spatial_tensors(model, output, size)
    if any(each.name == output for each in tensors):  # the output is a map itself
        tensors = tuple(e for e in tensors if e.name != output and e.side <= max(size) / _STRIDE)
    chosen = choice(tensors)
    if name is not None:
        chosen = next((each for each in tensors if each.name == name), None)
        if chosen is None:
            raise GradientError(
                f"{method}: the model has no float tensor {name!r} of shape [N, C, h, w] between "
                f"image and scores; choose from {_some(tensors)}"
            )
    if chosen is None:
        raise GradientError(f"{method}: the model has no suitable tensor of shape [N, C, h, w]")
    reason = f"at {chosen.name}, {chosen.channels} x {chosen.height} x {chosen.width}"
    tolerance = _IN_FEWER_BITS if rounds_coarsely(model, output) else _IN_SINGLE
    return LayerSplit(chosen, SplitModel(model, chosen.name, output), reason, tolerance)


def levels(model: DeployedModel, output: str, size: tuple[int, int]) -> tuple[str, ...]:
    """Return the features before a detector's heads: one tensor, or the levels of a pyramid.

    Each head reads one of several levels, and the last tensor belongs to one head only. Empty if
    all paths go through the last tensor, as in a classifier, or if the output is a map.
    """
    tensors = spatial_tensors(model, output, size)
    last = last_spatial(tensors)
    if last is None or last.bottleneck or any(each.name == output for each in tensors):
        return ()
    return tuple(each.name for each in deep_features(model, (output,), size))


def _some(tensors: tuple[SpatialTensor, ...]) -> str:
    """Return the names of the last few tensors."""
    names = [each.name for each in tensors[-5:]]
    more = "" if len(tensors) <= len(names) else f" and {len(tensors) - len(names)} before them"
    return f"{', '.join(names) or 'none'}{more}"

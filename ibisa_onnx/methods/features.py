"""What Grad-CAM and IBA have in common: they look at a tensor inside the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ibisa_onnx.errors import GradientError
from ibisa_onnx.explanation import Certificate
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
from ibisa_onnx.targets.base import Objective

_IN_SINGLE, _IN_FEWER_BITS = 1e-3, 2e-2  # what rounding makes of a probability

_STRIDE = 8  # input pixels a feature, at least, before an output that is a map itself

Choice = Callable[[tuple[SpatialTensor, ...]], SpatialTensor | None]


@dataclass(frozen=True)
class LayerSplit:
    """A tensor of a model, and the model split there."""

    tensor: SpatialTensor
    split: SplitModel
    reason: str
    tolerance: float

    def certificate(self, problem: Problem, objective: Objective, raw: Array) -> Certificate:
        """Return how far the objective behind the tensor is from the model's own answer."""
        found = float(objective.probability({self.split.output: raw})[0])
        difference = abs(found - problem.row.probability)
        holds = difference <= self.tolerance
        return Certificate("exact", self.reason, difference, self.tolerance, holds)


def only_output(objective: Objective, method: str) -> str:
    """Return the output that an objective reads; GradientError where there are several."""
    if len(objective.outputs) != 1:
        raise GradientError(f"{method} explains one output, not {len(objective.outputs)}")
    return objective.outputs[0]


def open_layer(
    model: DeployedModel,
    output: str,
    size: tuple[int, int],
    method: str,
    name: str | None,
    choice: Choice,
) -> LayerSplit:
    """Split a model at a tensor that is named, or else chosen.

    Parameters
    ----------
    output
        The tensor that is explained.
    size
        Height and width of the model's input.

    Raises
    ------
    GradientError
        The model has no tensor of that name, or none to choose.
    """
    tensors = spatial_tensors(model, output, size)
    if any(each.name == output for each in tensors):  # each place of the output is one of the image
        tensors = tuple(e for e in tensors if e.name != output and e.side <= max(size) / _STRIDE)
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
    tolerance = _IN_FEWER_BITS if rounds_coarsely(model, output) else _IN_SINGLE
    return LayerSplit(chosen, SplitModel(model, chosen.name, output), reason, tolerance)


def levels(model: DeployedModel, output: str, size: tuple[int, int]) -> tuple[str, ...]:
    """Return the features before a detector's heads: one tensor, or the levels of a pyramid.

    Each of its heads reads one of several levels, and the last tensor belongs to one head alone.
    Empty where all paths go through the last tensor, as in a classifier, or the output is a map.
    """
    tensors = spatial_tensors(model, output, size)
    last = last_spatial(tensors)
    if last is None or last.bottleneck or any(each.name == output for each in tensors):
        return ()
    return tuple(each.name for each in deep_features(model, (output,), size))


def _some(tensors: tuple[SpatialTensor, ...]) -> str:
    """Name the last few."""
    names = [each.name for each in tensors[-5:]]
    more = "" if len(tensors) <= len(names) else f" and {len(tensors) - len(names)} before"
    return f"{', '.join(names) or 'none'}{more}"

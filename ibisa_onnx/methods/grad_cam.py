"""Grad-CAM: feature maps weighted by their mean gradients (Selvaraju et al., arXiv 1610.02391)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from types import NoneType
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from ibisa_onnx.checks import check_type
from ibisa_onnx.gradients.layer import before_softmax, deployed, last_spatial
from ibisa_onnx.methods.base import AttributionResult, RowByRow
from ibisa_onnx.methods.features import LayerSplit, levels, only_output, open_layer
from ibisa_onnx.methods.problem import Problem
from ibisa_onnx.methods.scaling import positive_part_scaled
from ibisa_onnx.methods.stopping import Control
from ibisa_onnx.models.base import ImageModel
from ibisa_onnx.preprocessing.spec import Preprocessing
from ibisa_onnx.statements import Certificate, Completion
from ibisa_onnx.targets.base import Objective
from ibisa_onnx.targets.classification import ClassObjective, logit_objective


@dataclass(frozen=True)
class GradCam:
    """Grad-CAM at one tensor; one forward and one backward pass.

    Selvaraju et al., arXiv 1610.02391. The score y is the class logit before the softmax, as in the
    paper, or the raw output if the model has no softmax. A detector's box is read from one of
    several feature levels: each is evaluated, and the level with the largest sum of |A dy/dA| is
    used.

    Attributes
    ----------
    layer
        Name of a float tensor [N, C, h, w]; None for the last one before global pooling, or before
        a detector's heads.

    Raises
    ------
    GradientError
        When prepared: the model cannot be split, or has no such tensor.
    """

    layer: str | None = None
    name: ClassVar[str] = "gradcam"

    def __post_init__(self) -> None:
        """Raise `OptionError` if the layer is not a name."""
        check_type("layer", self.layer, (str, NoneType), "the name of a tensor")

    @property
    def settings(self) -> dict[str, Any]:
        """Settings by name."""
        return asdict(self)

    def prepare(
        self, model: ImageModel, objective: Objective, preprocessing: Preprocessing
    ) -> PreparedGradCam:
        """Split the model; `GradientError` if that is impossible."""
        graph = deployed(model, self.name)
        logits = only_output(objective, self.name)
        if isinstance(objective, ClassObjective):
            logits = before_softmax(graph, logits)
        size = preprocessing.size
        names = (self.layer,) if self.layer else levels(graph, logits, size) or (None,)
        return PreparedGradCam(
            tuple(open_layer(graph, logits, size, self.name, each, last_spatial) for each in names)
        )


@dataclass(frozen=True)
class PreparedGradCam(RowByRow):
    """Grad-CAM for one model, at one or several layers."""

    layers: tuple[LayerSplit, ...]

    def run_one(
        self, problem: Problem, rng: np.random.Generator, control: Control
    ) -> Iterator[AttributionResult]:
        """Yield the map at the layer on which the prediction depends most."""
        found = [_at(each, problem) for each in self.layers]
        layer, best = max(zip(self.layers, found, strict=True), key=lambda pair: pair[1].weight)
        warnings = () if best.saliency.max() > 0 else (_empty(layer, best.weight),)
        control.progress(1, 1)
        yield AttributionResult(
            positive_part_scaled(best.saliency),
            problem.size,
            Completion(1, 1, "steps"),
            best.certificate,
            warnings=warnings,
        )


@dataclass(frozen=True, eq=False)
class _Activation:
    """Grad-CAM before its ReLU, float64 [h, w], and how much the score depends on the layer."""

    saliency: npt.NDArray[np.float64]
    weight: float
    certificate: Certificate


def _at(layer: LayerSplit, problem: Problem) -> _Activation:
    """Weight the features A of a layer: sum of alpha_k A_k, alpha_k = mean of dy/dA_k (eq. 1, 2).

    The layer's weight is the sum of |A dy/dA|.
    """
    split, image = layer.split, problem.image
    objective = logit_objective(problem.row.objective, split.output)
    features = split.features(image)
    raw, saved = split.forward(image, features, problem.passes)
    cotangent = objective.vjp({split.output: raw})[split.output]
    gradient = split.backward(saved, cotangent, problem.passes)[0].astype(np.float64)
    values = features[0].astype(np.float64)
    saliency = np.tensordot(gradient.mean((1, 2)), values, 1)
    certificate = layer.certificate(problem, objective, raw)
    return _Activation(saliency, float(np.abs(gradient * values).sum()), certificate)


def _empty(layer: LayerSplit, weight: float) -> str:
    """Explain why a map is empty, and what to do."""
    name = layer.tensor.name
    why = f"the features of {name}, weighted by their mean gradients, nowhere raise the score"
    if weight == 0:
        why = f"the score does not depend on {name}"
    return f"the map is empty: {why}; choose another tensor with GradCam(layer=NAME)"

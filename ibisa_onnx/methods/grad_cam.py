"""Grad-CAM: feature maps weighted by their mean gradients (Selvaraju et al., arXiv 1610.02391)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np

from ibisa_onnx.explanation import Completion
from ibisa_onnx.gradients.layer import before_softmax, deployed, last_spatial
from ibisa_onnx.methods.base import AttributionResult, RowByRow
from ibisa_onnx.methods.features import LayerSplit, only_output, open_layer
from ibisa_onnx.methods.problem import Problem
from ibisa_onnx.methods.scaling import positive_part_scaled
from ibisa_onnx.methods.stopping import Control
from ibisa_onnx.models.base import ImageModel
from ibisa_onnx.preprocessing.spec import Preprocessing
from ibisa_onnx.targets.base import Objective
from ibisa_onnx.targets.classification import ClassObjective, logit_objective


@dataclass(frozen=True)
class GradCam:
    """Grad-CAM at one tensor, for one forward and one backward pass.

    The score y is the class's before the softmax, as in the paper; where the file holds no softmax
    it is the raw output.

    Attributes
    ----------
    layer
        Name of a float tensor [N, C, h, w]; None: the last one before the features are pooled.
    """

    layer: str | None = None
    name: ClassVar[str] = "gradcam"

    @property
    def settings(self) -> dict[str, Any]:
        """The settings by name."""
        return asdict(self)

    def prepare(
        self, model: ImageModel, objective: Objective, preprocessing: Preprocessing
    ) -> PreparedGradCam:
        """Split the model; GradientError where that cannot be done."""
        graph = deployed(model, self.name)
        logits = only_output(objective, self.name)
        if isinstance(objective, ClassObjective):
            logits = before_softmax(graph, logits)
        size = preprocessing.size
        return PreparedGradCam(open_layer(graph, logits, size, self.name, self.layer, last_spatial))


@dataclass(frozen=True)
class PreparedGradCam(RowByRow):
    """Grad-CAM of one model."""

    layer: LayerSplit

    def run_one(
        self, problem: Problem, rng: np.random.Generator, control: Control
    ) -> Iterator[AttributionResult]:
        """Weight the features A: ReLU(sum of alpha_k A_k), alpha_k = mean of dy/dA_k (eq. 1, 2)."""
        split, image = self.layer.split, problem.image
        objective = logit_objective(problem.row.objective, split.output)
        features = split.features(image)
        raw, saved = split.forward(image, features, problem.passes)
        cotangent = objective.vjp({split.output: raw})[split.output]
        weights = split.backward(saved, cotangent, problem.passes)
        alpha = weights[0].astype(np.float64).mean((1, 2))
        saliency = positive_part_scaled(np.tensordot(alpha, features[0].astype(np.float64), 1))
        certificate = self.layer.certificate(problem, objective, raw)
        control.progress(1, 1)
        yield AttributionResult(saliency, problem.size, Completion(1, 1, "steps"), certificate)

"""Grad-CAM: feature maps weighted by their mean gradients (Selvaraju et al., arXiv 1610.02391)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np

from ibisa_onnx.explainer import Explainer
from ibisa_onnx.explanation import Completion
from ibisa_onnx.gradients.layer import before_softmax, deployed, last_spatial
from ibisa_onnx.gradients.selection import GradientPath
from ibisa_onnx.methods.budget import Progress
from ibisa_onnx.methods.features import Layer, open_layer
from ibisa_onnx.methods.ibisa.method import Found
from ibisa_onnx.methods.problem import Case
from ibisa_onnx.methods.scaling import above_zero
from ibisa_onnx.methods.stopping import Limit
from ibisa_onnx.targets.classification import Activation, ClassOutput


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

    def open(self, explainer: Explainer, output: ClassOutput) -> OpenedGradCam:
        """Cut the model open; GradientError where that cannot be done."""
        logits = before_softmax(deployed(explainer.model, self.name), output.name)
        if logits != output.name:
            output = ClassOutput(logits, output.classes, Activation.SOFTMAX)
        return OpenedGradCam(open_layer(explainer, output, self.name, self.layer, last_spatial))


@dataclass(frozen=True)
class OpenedGradCam:
    """Grad-CAM of one model."""

    layer: Layer

    @property
    def path(self) -> GradientPath:
        """The backward graph of the tail."""
        return self.layer.path

    def __call__(
        self, case: Case, rng: np.random.Generator, progress: Progress | None, limit: Limit
    ) -> Iterator[Found]:
        """Weight the features A: ReLU(sum of alpha_k A_k), alpha_k = mean of dy/dA_k (eq. 1, 2)."""
        tail, image = self.layer.tail, case.bottleneck.image
        features = tail.features(image)
        raw, saved = tail.forward(image, features)
        cotangent = np.zeros(raw.shape, raw.dtype if raw.dtype.kind == "f" else np.float32)
        cotangent.reshape(-1)[case.index] = 1
        weights = tail.backward(saved, cotangent)[0].astype(np.float64).mean((1, 2))
        saliency = above_zero(np.tensordot(weights, features[0].astype(np.float64), 1))
        difference = self.layer.difference(case, raw)
        done = Completion(1, 1, "steps")
        if progress is not None:
            progress(1, 1)
        yield Found(saliency, case.bottleneck.size, done, difference=difference)

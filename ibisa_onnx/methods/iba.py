"""IBA: an information bottleneck at a tensor inside the model (Schulz et al., arXiv 2001.00396).

The per-sample bottleneck of the paper's sections 3.1 and 3.2, with the settings of the authors'
code. Features R are mixed with noise of their own mean and deviation,

    Z = lambda R + (1 - lambda) eps,  eps ~ N(mu, sigma^2)
    loss = -log p(target | Z) + beta mean KL(P(Z|R) || N(mu, sigma^2))

where, with r = (R - mu) / sigma, the divergence of each feature in nats (the map uses bits) is

    KL = -1/2 (1 + log (1 - lambda)^2 - (lambda r)^2 - (1 - lambda)^2)

and lambda is the smoothed sigmoid of the parameters. Everything but the model's tail is
differentiated by hand.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from ibisa_onnx.checks import check_type
from ibisa_onnx.errors import OptionError
from ibisa_onnx.gradients.layer import deployed, last_of_side
from ibisa_onnx.gradients.masked_images import Floats
from ibisa_onnx.methods.base import AttributionResult, RowByRow
from ibisa_onnx.methods.features import LayerSplit, only_output, open_layer
from ibisa_onnx.methods.ibisa.optimizer import PooledAdam
from ibisa_onnx.methods.masking import sigmoid, smooth
from ibisa_onnx.methods.problem import Problem
from ibisa_onnx.methods.scaling import positive_part_scaled
from ibisa_onnx.methods.settings import is_whole
from ibisa_onnx.methods.stopping import Control
from ibisa_onnx.models.base import ImageModel
from ibisa_onnx.preprocessing.reading import read_for
from ibisa_onnx.preprocessing.spec import Preprocessing, prepare
from ibisa_onnx.statements import Completion
from ibisa_onnx.targets.base import Objective

_DEPTH = 8  # input pixels per feature: conv4 of VGG-16 and layer2 of ResNet-50, as in the paper
_LEAST_DEVIATION = 0.01
_RARELY = 0.01  # features that are non-zero in fewer images are ignored
_MOST = 0.999  # maximum lambda; at 1 the divergence is infinite


@dataclass(frozen=True)
class Iba:
    """IBA per sample; `steps` times `draws` forward passes and as many backward passes.

    Schulz et al., arXiv 2001.00396.

    Attributes
    ----------
    images
        Paths of images from which mean and deviation of the features are estimated, once per model:
        one pass each, which is not counted in explanations. At least 2; the paper uses 10,000 or
        more.
    layer
        Name of a float tensor [N, C, h, w]; None for the last one with about 8 input pixels per
        feature.
    beta
        Weight of the mean divergence, which is in nats.
    steps, draws
        Optimisation steps, and noise draws per step.
    learning_rate
        Step size of Adam.
    start
        Initial value of the parameters, as logits of lambda.
    smoothing
        Standard deviation of the Gaussian over lambda, in features.

    Raises
    ------
    OptionError
        There are fewer than 2 images, or a value is out of range.
    GradientError
        When prepared: the model cannot be split, or has no such tensor.
    ImageError
        When prepared: an image cannot be read.
    """

    images: Sequence[str | os.PathLike[str]]
    layer: str | None = None
    beta: float = 10.0
    steps: int = 10
    draws: int = 10
    learning_rate: float = 1.0
    start: float = 5.0
    smoothing: float = 1.0
    name: ClassVar[str] = "iba"

    def __post_init__(self) -> None:
        """Raise `OptionError` if there are too few images or a value is out of range."""
        if isinstance(self.images, str | bytes | os.PathLike):
            raise OptionError(f"iba's images is {self.images!r}; pass a sequence of images")
        check_type("iba's images", self.images, Sequence, "a sequence of images")
        object.__setattr__(self, "images", tuple(self.images))  # lists are accepted
        if len(self.images) < 2:
            raise OptionError(f"iba needs 2 or more images, got {len(self.images)}")
        for name in ("steps", "draws"):
            if not is_whole(getattr(self, name), 1):
                raise OptionError(f"iba's {name} is {getattr(self, name)!r}; pass 1 or more")
        for name in ("beta", "learning_rate", "smoothing"):
            value = getattr(self, name)
            real = isinstance(value, int | float | np.integer | np.floating)
            if not real or not 0 <= value < math.inf:
                raise OptionError(f"iba's {name} is {value!r}; pass 0 or more")

    @property
    def settings(self) -> dict[str, Any]:
        """Settings by name; for the images their number."""
        return {**asdict(self), "images": len(self.images)}

    def prepare(
        self, model: ImageModel, objective: Objective, preprocessing: Preprocessing
    ) -> PreparedIba:
        """Split the model and estimate the statistics of its features.

        Raises
        ------
        GradientError
            The model cannot be split.
        ImageError
            An image cannot be read.
        """
        graph, output = deployed(model, self.name), only_output(objective, self.name)
        choice = partial(last_of_side, side=max(preprocessing.size) / _DEPTH)
        layer = open_layer(graph, output, preprocessing.size, self.name, self.layer, choice)
        pictures = (read_for(each, preprocessing) for each in self.images)
        tensors = (prepare(each, preprocessing).tensor for each in pictures)
        features = (layer.split.features(tensor)[0] for tensor in tensors)
        return PreparedIba(self, layer, estimate(features))


@dataclass(frozen=True)
class Statistics:
    """Mean, deviation and presence of each feature, [C, h, w]."""

    mean: Floats
    deviation: Floats
    active: npt.NDArray[np.bool_]


def estimate(features: Iterator[npt.NDArray[Any]]) -> Statistics:
    """Estimate statistics from features [C, h, w], one image at a time (Welford's algorithm)."""
    count, mean, squares, present = 0, np.zeros(()), np.zeros(()), np.zeros(())
    for count, each in enumerate(features, 1):
        off = each.astype(np.float64) - mean
        mean = mean + off / count
        squares = squares + off * (each - mean)
        present = present + (each != 0)
    deviation = np.sqrt(squares / max(count - 1, 1))
    return Statistics(
        mean.astype(np.float32),
        np.maximum(deviation, _LEAST_DEVIATION).astype(np.float32),
        present > _RARELY * count,
    )


@dataclass(frozen=True)
class PreparedIba(RowByRow):
    """IBA for one model."""

    method: Iba
    layer: LayerSplit
    statistics: Statistics

    def run_one(
        self, problem: Problem, rng: np.random.Generator, control: Control
    ) -> Iterator[AttributionResult]:
        """Optimise lambda; the map is the information at each position, summed over channels."""
        method, split = self.method, self.layer.split
        problem.check_batch_independence()
        features = split.features(problem.image)
        raw, _ = split.forward(problem.image, features, problem.passes)
        certificate = self.layer.certificate(problem, problem.row.objective, raw)
        relative = (features[0] - self.statistics.mean) / self.statistics.deviation
        parameters = np.full(relative.shape, method.start, np.float32)
        adam = PooledAdam(pooling=0)
        begin = time.perf_counter()
        for done in range(1, method.steps + 1):
            gradient = self._loss_gradient(problem, parameters, relative, rng)
            parameters = parameters - adam.step(gradient, method.learning_rate)
            control.progress(done, method.steps)
            pace = (time.perf_counter() - begin) / done
            if done < method.steps and control.stopping.over(pace):
                break
        keep = smooth(sigmoid(parameters), method.smoothing)
        information = np.where(self.statistics.active, divergence(keep, relative), 0)
        completion = Completion(done, method.steps, "steps", control.stopping.reason)
        bits = information.sum(0) / math.log(2)
        yield AttributionResult(positive_part_scaled(bits), problem.size, completion, certificate)

    def _loss_gradient(
        self, problem: Problem, parameters: Floats, relative: Floats, rng: np.random.Generator
    ) -> Floats:
        """Return d loss / d parameters, [C, h, w]."""
        method, statistics = self.method, self.statistics
        sigmoids = sigmoid(parameters)
        keep = smooth(sigmoids, method.smoothing)
        noise = rng.standard_normal((method.draws, *keep.shape), np.float32)
        mixed = keep * relative + (1 - keep) * noise
        mixed = (mixed * statistics.deviation + statistics.mean) * statistics.active
        by_features = self._score_gradient(problem, mixed)
        by_features = by_features * (statistics.deviation * statistics.active)
        gradient = -(by_features * (relative - noise)).mean(0)
        weight = np.float32(method.beta / keep.size) * statistics.active
        gradient += weight * divergence_derivative(keep, relative)
        smoothed = smooth(np.asarray(gradient, np.float32), method.smoothing)
        return np.asarray(smoothed * sigmoids * (1 - sigmoids))

    def _score_gradient(self, problem: Problem, mixed: Floats) -> Floats:
        """Return d log p / d features for each mixture, [N, C, h, w]."""
        split, objective, most = self.layer.split, problem.row.objective, problem.model.max_batch
        gradients = []
        for begin in range(0, len(mixed), most):
            block = mixed[begin : begin + most]
            raw, saved = split.forward(problem.image, block, problem.passes)
            cotangent = objective.vjp({split.output: raw})[split.output]
            gradients.append(split.backward(saved, cotangent, problem.passes))
        return np.concatenate(gradients)


def divergence(keep: Floats, relative: Floats) -> Floats:
    """Return KL(P(Z|R) || N(mu, sigma^2)) of each feature, in nats."""
    left = 1 - np.minimum(keep, np.float32(_MOST))
    return np.asarray(-0.5 * (1 + 2 * np.log(left) - (keep * relative) ** 2 - left**2))


def divergence_derivative(keep: Floats, relative: Floats) -> Floats:
    """Return the derivative of the divergence with respect to lambda."""
    left = 1 - np.minimum(keep, np.float32(_MOST))
    return np.asarray(1 / left + keep * relative**2 - left)

"""Students: differentiable modules from images to the deployed model's scores.

There are two kinds: the deployed file's own graph with straight-through quantisers, which agrees
closely from the start, and for other models a small CNN trained from scratch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ibisa_exporters.distillation.answers import Answers, predicted_class
from ibisa_exporters.distillation.graph_module import GraphModule
from ibisa_exporters.distillation.scores import from_logits, log_probabilities, usual_logits
from ibisa_onnx.errors import UnsupportedOperatorError
from ibisa_onnx.methods.problem import Problem
from ibisa_onnx.models.external_data import load_weights
from ibisa_onnx.models.onnx_session import DeployedModel
from ibisa_onnx.models.signature import Layout
from ibisa_onnx.targets.class_scores import ClassScores

_LEAST_STD = 1e-6
_MIXED = 1e-3  # accepted relative difference of scores if another image is in the batch
_PLANES, _MOST_PLANES = 32, 128
_POOLS = 3  # weighted means over the image, per feature
_UNEVEN = 0.1  # initial spread of these weights
_CELLS = 14  # on the shorter side of the small network's last feature map


class OwnGraph(nn.Module):
    """The deployed graph: images float32 [N, C, H, W] to the output's real values [N, width]."""

    def __init__(self, problem: Problem) -> None:
        """Read the graph, and run it on the problem's image.

        Raises
        ------
        UnsupportedOperatorError
            There is no graph, an operator has no counterpart in torch, or images of a batch
            interact.
        """
        super().__init__()
        model, reading = problem.model, predicted_class(problem).reading
        proto = model.proto()
        if not isinstance(model, DeployedModel) or proto is None:
            raise UnsupportedOperatorError(f"{model.label} has no graph to read")
        load_weights(proto, model.file.path)
        # Not `graph`, which torch.export's own modules have.
        self.network = GraphModule(proto, model.image.name, reading.name)
        self._last = model.image.layout is Layout.NHWC
        self._quantisation = reading.quantisation
        self._try(torch.from_numpy(problem.image))

    def _try(self, image: Tensor) -> None:
        """Check that it runs, and that an image [1, C, H, W] is independent of another."""
        try:
            with torch.inference_mode():
                alone, beside = self(image)[0], self(torch.cat([image, image.flip(-1)]))[0]
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            reason = str(error).splitlines()[0]
            raise UnsupportedOperatorError(f"its graph does not run in torch: {reason}") from error
        if not torch.allclose(alone, beside, rtol=_MIXED, atol=_MIXED * float(alone.abs().max())):
            raise UnsupportedOperatorError("images of a batch interact in its graph in torch")

    def forward(self, images: Tensor) -> Tensor:
        """Return the output's reals [N, width] of images [N, C, H, W]."""
        raw: Tensor = self.network(images.permute(0, 2, 3, 1) if self._last else images)
        scores = raw.reshape(images.shape[0], -1)
        if self._quantisation is None:
            return scores
        return (scores - self._quantisation.zero_point) * self._quantisation.scale


class SmallNet(nn.Module):
    """A small CNN: images float32 [N, C, H, W] of one size to real values [N, width].

    Its features depend on their position: a network trained on few images can learn what each
    location contributes, but not what objects look like.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, shape: tuple[int, int, int], reading: ClassScores) -> None:
        super().__init__()
        channels, height, width = shape
        self._activation = reading.activation
        self.register_buffer("mean", torch.zeros(channels, 1, 1))
        self.register_buffer("std", torch.ones(channels, 1, 1))
        side, planes = min(height, width), _PLANES
        stride = max(1, min(4, side // (2 * _CELLS)))
        layers: list[nn.Module] = [nn.Conv2d(channels, planes, 5, stride, 2), nn.SiLU()]
        side //= stride
        while side > 1.5 * _CELLS:
            wider = min(2 * planes, _MOST_PLANES)
            layers += _block(planes, wider, 2)
            planes, side = wider, side // 2
        self.features = nn.Sequential(*layers, *_block(planes, planes, 1))
        with torch.no_grad():
            grid = self.features(torch.zeros(1, *shape)).shape[2:]
        self.place = nn.Parameter(0.1 * torch.randn(1, planes, *grid))
        self.gain = nn.Parameter(torch.ones(1, planes, *grid))
        cells = grid[0] * grid[1]
        self.pool = nn.Parameter((1 + _UNEVEN * torch.randn(planes, cells, _POOLS)) / cells)
        self.mix = nn.ModuleList([_Mix(planes) for _ in range(3)])
        self.classify = nn.Linear(_POOLS * planes, reading.width)

    def prepare(self, answers: Sequence[Answers], reading: ClassScores) -> None:
        """Initialise the input normalisation and the output bias from the training set."""
        colours = np.stack([each.masked.images[0] for each in answers])
        logs = log_probabilities(
            torch.from_numpy(np.concatenate([each.scores for each in answers])), reading
        )
        with torch.no_grad():
            self.mean.copy_(torch.from_numpy(colours.mean((0, 2, 3))).reshape(self.mean.shape))
            self.std.copy_(
                torch.from_numpy(colours.std((0, 2, 3)) + _LEAST_STD).reshape(self.std.shape)
            )
            self.classify.bias.copy_(usual_logits(logs, reading))

    def forward(self, images: Tensor) -> Tensor:
        """Return the output's reals [N, width] of images [N, C, H, W]."""
        cells = self.features((images - self.mean) / self.std) * self.gain + self.place
        for mix in self.mix:
            cells = mix(cells)
        pooled = torch.einsum("npc,pcm->npm", cells.flatten(2), self.pool)
        return from_logits(self.classify(pooled.flatten(1)), self._activation)


class _Mix(nn.Module):
    """A residual block: each cell separately, gated by the mean over all cells."""

    def __init__(self, planes: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, planes)
        self.widen = nn.Conv2d(planes, 2 * planes, 1)
        self.whole = nn.Linear(planes, 2 * planes)
        self.narrow = nn.Conv2d(2 * planes, planes, 1)

    def forward(self, cells: Tensor) -> Tensor:
        normed = self.norm(cells)
        gate = self.whole(cells.mean((2, 3)))[..., None, None]
        change: Tensor = self.narrow(functional.silu(self.widen(normed)) * (1 + gate))
        return cells + change


def _block(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
    return [
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
        nn.GroupNorm(8, outputs),
        nn.SiLU(),
    ]

"""A differentiable twin of an exported model: a `torch.export` program, for `run --surrogate`.

It needs nothing of the source to be loaded, runs on any device, and takes any number of images
float32 [N, C, H, W] in model space, whatever the layout of the ONNX file.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from exporters.onnx_export import trace
from exporters.trained import TrainedModel
from ibisa_onnx.errors import ExportError
from ibisa_onnx.gradients.surrogate import load_program
from ibisa_onnx.model.signature import Layout

_TOLERANCE = 1e-3


class ChannelsFirst(nn.Module):
    """A network of [N, H, W, C] as one of [N, C, H, W]."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        """Give the scores of images [N, C, H, W]."""
        scores: Tensor = self.net(images.permute(0, 2, 3, 1))
        return scores


def write_surrogate(model: TrainedModel, path: Path) -> None:
    """Write the surrogate of a network, and see that it has the network's scores and gradient.

    Raises
    ------
    ExportError
        The network cannot be traced with an open batch, or the file answers otherwise.
    """
    module, example = model.module, model.example
    if model.layout is Layout.NHWC:
        module, example = ChannelsFirst(module), example.permute(0, 3, 1, 2)
    images = torch.randn(2, *example.shape[1:], generator=torch.Generator().manual_seed(0))
    torch.export.save(trace(module, images, open_batch=True), path)
    _check(module, load_program(path, "surrogate").module(), images)


def _check(module: nn.Module, program: nn.Module, images: Tensor) -> None:
    """Raise where scores or gradients of two networks differ, on one image or on two."""
    for count in (1, 2):
        expected, given = (_answers(each, images[:count]) for each in (module, program))
        for what, a, b in zip(("scores", "gradient"), expected, given, strict=True):
            difference = float((a - b).abs().max() / a.abs().max().clamp(min=1e-30))
            if not difference <= _TOLERANCE:
                raise ExportError(
                    f"the surrogate's {what} differ from its source's by {difference:.1e} of the "
                    "largest; nothing was written; leave --surrogate out"
                )


def _answers(module: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the scores, and the images' gradient of a fixed mixture of them."""
    leaf = images.clone().requires_grad_(True)
    scores = module(leaf)
    if not scores.requires_grad:
        raise ExportError("the network has no gradient, so it has no surrogate")
    weights = torch.linspace(-1, 1, scores.numel()).reshape(scores.shape)
    (gradient,) = torch.autograd.grad((scores * weights).sum(), leaf)
    return scores.detach(), gradient

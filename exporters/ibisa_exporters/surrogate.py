"""A differentiable counterpart of an exported model: a `torch.export` program, for `surrogate=`.

It needs nothing of the source to be loaded, runs on any device, and takes any number of images
float32 [N, C, H, W] in model space, whatever the layout of the ONNX file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor, nn

from ibisa_exporters.onnx_export import forget_sources, quietly, trace
from ibisa_exporters.trained import TrainedModel
from ibisa_onnx.errors import ExportError
from ibisa_onnx.gradients.normalization import ContiguousNormalization
from ibisa_onnx.gradients.surrogate import FACTS, load_program
from ibisa_onnx.models.onnx_file import beside
from ibisa_onnx.models.signature import Layout

_SCORES_TOLERANCE, _GRADIENT_TOLERANCE = 1e-3, 0.1
"""Of the largest score, and of the gradient's length. Rounding alone sets other units of a deep
ReLU network to zero, which moves its gradient by some hundredths; a wrong one is far off."""


def surrogate_path(model: Path) -> Path:
    """Return where a model's surrogate goes: beside it."""
    return beside(model, ".surrogate.pt2")


class ChannelsFirst(nn.Module):
    """A network of [N, H, W, C] as one of [N, C, H, W]."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        """Give the scores of images [N, C, H, W]."""
        scores: Tensor = self.net(images.permute(0, 2, 3, 1))
        return scores


def write_surrogate(model: TrainedModel, path: Path, facts: Mapping[str, Any]) -> None:
    """Write the surrogate of a network, and see that it has the network's scores and gradient.

    `facts` travel in the file, as JSON (`FACTS`).

    Raises
    ------
    ExportError
        The network cannot be traced with an open batch, or the file answers otherwise.
    """
    module, example = model.module, model.example
    if model.layout is Layout.NHWC:
        module, example = ChannelsFirst(module), example.permute(0, 3, 1, 2)
    images = torch.randn(2, *example.shape[1:], generator=torch.Generator().manual_seed(0))
    save_program(module, images, path, facts)
    _check(module, load_program(path, "surrogate").module(), images)


def save_program(
    module: nn.Module, images: Tensor, file: Path | IO[bytes], facts: Mapping[str, Any]
) -> None:
    """Save a network as a program for any number of images, to run on any device.

    Nothing of its code's lines and paths is in it.

    Parameters
    ----------
    module
        At rest.
    images
        Two, [2, C, H, W], on which it is traced.
    file
        Where it goes.
    facts
        What travels with it, as JSON (`FACTS`).

    Raises
    ------
    ExportError
        torch cannot.
    """
    extra = {FACTS: json.dumps(facts)}
    torch.export.save(_open_program(module, images), file, extra_files=extra)


def _open_program(module: nn.Module, images: Tensor) -> torch.export.ExportedProgram:
    """Trace a network on two images, for any number, safe to be derived on one."""
    program = trace(module, images, True, "a surrogate takes any number of images; do without one")
    with quietly():
        decomposed: torch.export.ExportedProgram = program.run_decompositions(_DECOMPOSED)
    _copy_where_needed(decomposed)
    forget_sources(decomposed)
    return decomposed


def _copy_where_needed(program: torch.export.ExportedProgram) -> None:
    """Let each view be a copy where it must.

    Attention lies otherwise in memory where a gradient is wanted than where it was traced.
    """
    for node in program.graph.nodes:
        if node.target is torch.ops.aten.view.default:
            node.target = torch.ops.aten.reshape.default
    program.graph_module.recompile()


def _normalize(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    momentum: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Write batch normalization at inference as a product and a sum.

    PyTorch's own has a wrong gradient on some single images (`ContiguousNormalization`), which is
    put right where we derive it; in the file it is right for others too.
    """
    scale = torch.rsqrt(variance + eps)
    scale = scale if weight is None else scale * weight
    shift = -mean * scale
    shift = shift if bias is None else shift + bias
    axes = (1, -1, *(1,) * (x.dim() - 2))
    none = x.new_empty(0)  # what training would save
    return x * scale.reshape(axes) + shift.reshape(axes), none, none


_DECOMPOSED = {torch.ops.aten._native_batch_norm_legit_no_training.default: _normalize}


def _check(module: nn.Module, program: nn.Module, images: Tensor) -> None:
    """Raise where scores or gradients of two networks differ, on two images or on one of them."""
    scores, gradient = _answers(module, images)
    for count in (1, 2):
        given, slope = _answers(program, images[:count])
        _check_near("scores differ", given, scores[:count], torch.inf, _SCORES_TOLERANCE)
        _check_near("gradient differs", slope, gradient[:count], 2, _GRADIENT_TOLERANCE)


def _check_near(what: str, given: Tensor, expected: Tensor, norm: float, tolerance: float) -> None:
    """Raise where two tensors lie further apart, by a vector norm, than a share of the second."""
    length = torch.linalg.vector_norm(expected, norm).clamp(min=1e-30)
    difference = float(torch.linalg.vector_norm(given - expected, norm) / length)
    if not difference <= tolerance:
        raise ExportError(
            f"the surrogate's {what} from its source's by {difference:.1e} of it; nothing was "
            "written; leave surrogate= out"
        )


def _answers(module: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the scores, and the images' gradient of a fixed mixture of them."""
    leaf = images.clone().requires_grad_(True)
    with ContiguousNormalization():
        scores = module(leaf)
    if not scores.requires_grad:
        raise ExportError("the network has no gradient, so it has no surrogate")
    weights = torch.linspace(-1, 1, scores[0].numel()).reshape(scores[0].shape)
    (gradient,) = torch.autograd.grad((scores * weights).sum(), leaf)
    return scores.detach(), gradient

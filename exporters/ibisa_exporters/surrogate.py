"""A differentiable counterpart of a network, for `surrogate=`: an ONNX file, or a torch program.

It needs nothing of the source to be loaded, and takes any number of images float32 [N, C, H, W] in
model space, whatever the layout of the deployed file. An ONNX file holds no code; a program of
`torch.export` (`.pt2`) may, so that whoever opens it must trust whoever made it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from ibisa_exporters.onnx_export import (
    OPSET,
    OUTPUT,
    Form,
    forget_sources,
    quietly,
    save,
    to_onnx,
    trace,
)
from ibisa_exporters.trained import TrainedModel
from ibisa_onnx.errors import ExportError, GradientError
from ibisa_onnx.gradients.base import GradientSource
from ibisa_onnx.gradients.masked_images import Floats, MaskedImages
from ibisa_onnx.gradients.onnx_surrogate import OnnxSurrogate
from ibisa_onnx.gradients.surrogate import SurrogateGradient
from ibisa_onnx.gradients.surrogate_file import ARCHIVED_FACTS, FACTS
from ibisa_onnx.models.onnx_file import beside
from ibisa_onnx.models.ort import CPU
from ibisa_onnx.models.passes import PassCounter
from ibisa_onnx.models.signature import Layout

ARCHIVE = ".pt2"
"""The ending of a program's name."""
_ANY_BATCH = "a surrogate takes any number of images; do without one"
_SCORES_TOLERANCE, _GRADIENT_TOLERANCE = 1e-3, 0.1
"""Of the largest score, and of the gradient's length. Rounding alone sets other units of a deep
ReLU network to zero, which moves its gradient by some hundredths; a wrong one is far off."""


def surrogate_path(model: Path) -> Path:
    """Return where a model's surrogate goes: beside it."""
    return beside(model, ".surrogate.onnx")


class ChannelsFirst(nn.Module):
    """A network of [N, H, W, C] as one of [N, C, H, W]."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        """Give the scores of images [N, C, H, W]."""
        scores: Tensor = self.net(images.permute(0, 2, 3, 1))
        return scores


def write_surrogate(
    model: TrainedModel, path: Path, facts: Mapping[str, Any], opset: int = OPSET
) -> None:
    """Write the surrogate of a network, and see that it has the network's scores and gradient.

    Parameters
    ----------
    model
        The network.
    path
        A program of `torch.export` where it ends in `.pt2`, else an ONNX file; weights that are too
        large for one go beside it, as `onnx_export.save` writes them.
    facts
        What travels in the file, as JSON.
    opset
        Of an ONNX file.

    Raises
    ------
    ExportError
        The network cannot be traced with an open batch, or the file answers otherwise.
    """
    model = _channels_first(model)
    shape = (2, *model.example.shape[1:])
    images = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    written: GradientSource
    if path.suffix == ARCHIVE:
        save_program(model.module, images, path, facts)
        written = SurrogateGradient(path, OUTPUT, trust=True)
    else:
        save(surrogate_graph(model, facts, opset), path)
        try:
            written = OnnxSurrogate(path, OUTPUT, providers=[CPU])
        except GradientError as error:
            raise ExportError(
                f"the network as ONNX has no gradient that can be had: {error.problem}"
            ) from error
    _check(SurrogateGradient(model.module, OUTPUT), written, images.numpy())


def surrogate_graph(
    model: TrainedModel, facts: Mapping[str, Any], opset: int = OPSET
) -> onnx.ModelProto:
    """Return a network as the graph of a surrogate, with what is said of it.

    Raises
    ------
    ExportError
        torch cannot write it for any number of images.
    """
    graph = to_onnx(_channels_first(model), Form(opset), _ANY_BATCH)
    graph.metadata_props.add(key=FACTS, value=json.dumps(facts))
    return graph


def _channels_first(model: TrainedModel) -> TrainedModel:
    """Return a network of [N, C, H, W]."""
    if model.layout is Layout.NCHW:
        return model
    module, example = ChannelsFirst(model.module), model.example.permute(0, 3, 1, 2)
    return replace(model, module=module, example=example, layout=Layout.NCHW)


def save_program(module: nn.Module, images: Tensor, path: Path, facts: Mapping[str, Any]) -> None:
    """Save a network as a program for any number of images, to run on any device.

    Nothing of its code's lines and paths is in it.

    Parameters
    ----------
    module
        At rest.
    images
        Two, [2, C, H, W], on which it is traced.
    path
        Where it goes.
    facts
        What travels with it, as JSON.

    Raises
    ------
    ExportError
        torch cannot.
    """
    extra = {ARCHIVED_FACTS: json.dumps(facts)}
    torch.export.save(_open_program(module, images), path, extra_files=extra)


def _open_program(module: nn.Module, images: Tensor) -> torch.export.ExportedProgram:
    """Trace a network on two images, for any number, safe to be derived on one."""
    program = trace(module, images, True, _ANY_BATCH)
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


def _check(source: GradientSource, written: GradientSource, images: Floats) -> None:
    """Raise where scores or gradients of two differ, on two images or on one of them."""
    scores, gradient = _answers(source, images)
    for count in (1, 2):
        given, slope = _answers(written, images[:count])
        _check_near("scores differ", given, scores[:count], np.inf, _SCORES_TOLERANCE)
        _check_near("gradient differs", slope, gradient[:count], 2, _GRADIENT_TOLERANCE)


def _check_near(what: str, given: Floats, expected: Floats, norm: float, tolerance: float) -> None:
    """Raise where two arrays lie further apart, by a vector norm, than a share of the second."""
    if given.shape != expected.shape:
        raise ExportError(
            f"the surrogate gives {list(given.shape)} where its source gives "
            f"{list(expected.shape)}; nothing was written; leave surrogate= out"
        )
    length = max(float(np.linalg.norm(expected.ravel(), norm)), 1e-30)
    difference = float(np.linalg.norm((given - expected).ravel(), norm)) / length
    if not difference <= tolerance:
        raise ExportError(
            f"the surrogate's {what} from its source's by {difference:.1e} of it; nothing was "
            "written; leave surrogate= out"
        )


def _answers(source: GradientSource, images: Floats) -> tuple[Floats, Floats]:
    """Return the scores [N, K], and the gradient [N, 1, H, W] of a fixed mixture of them.

    That is by masks as large as the images, over black: as explanations ask for it.
    """
    function = source(MaskedImages(images, np.zeros_like(images)), PassCounter())
    raw, saved = function.forward(np.ones((len(images), 1, *images.shape[2:]), np.float32))
    scores = raw[OUTPUT]
    mixture = np.linspace(-1, 1, scores.shape[1], dtype=np.float32)
    return scores, function.backward(saved, {OUTPUT: np.tile(mixture, (len(scores), 1))})

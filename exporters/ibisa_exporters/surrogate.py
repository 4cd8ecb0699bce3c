"""A differentiable counterpart of a network, for `surrogate=`: an ONNX file, or a torch program.

It is independent of the source, and accepts any number of images float32 [N, C, H, W] in model
space, whatever the layout of the deployed file. An ONNX file contains no code; a `torch.export`
program (`.pt2`) may, so it must come from a trusted author.
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
"""Suffix of a program."""
_ANY_BATCH = "a surrogate requires a dynamic batch; omit it"
_SCORES_TOLERANCE, _GRADIENT_TOLERANCE = 1e-3, 0.1
"""Relative to the largest score, and to the norm of the gradient. Rounding alone switches units of
a deep ReLU network, which changes its gradient by a few percent; a wrong one is far off."""


def surrogate_path(model: Path) -> Path:
    """Return the path of a model's surrogate, beside the model."""
    return beside(model, ".surrogate.onnx")


class ChannelsFirst(nn.Module):
    """A network with input [N, H, W, C], wrapped to accept [N, C, H, W]."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        """Return the scores of images [N, C, H, W]."""
        scores: Tensor = self.net(images.permute(0, 2, 3, 1))
        return scores


def write_surrogate(
    model: TrainedModel, path: Path, facts: Mapping[str, Any], opset: int = OPSET
) -> None:
    """Write the surrogate of a network, and verify its scores and gradient.

    Parameters
    ----------
    model
        The network.
    path
        The file: a `torch.export` program if it ends in `.pt2`, else an ONNX file, with large
        weights beside it as written by `onnx_export.save`.
    facts
        Metadata to embed, as JSON data.
    opset
        Opset of an ONNX file.

    Raises
    ------
    ExportError
        The network cannot be traced with a dynamic batch, or the file's scores or gradient differ.
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
                f"the exported network has no exact gradient: {error.problem}"
            ) from error
    _check(SurrogateGradient(model.module, OUTPUT), written, images.numpy())


def surrogate_graph(
    model: TrainedModel, facts: Mapping[str, Any], opset: int = OPSET
) -> onnx.ModelProto:
    """Return a network as an ONNX surrogate with embedded metadata.

    Raises
    ------
    ExportError
        torch cannot export it with a dynamic batch.
    """
    graph = to_onnx(_channels_first(model), Form(opset), _ANY_BATCH)
    graph.metadata_props.add(key=FACTS, value=json.dumps(facts))
    return graph


def _channels_first(model: TrainedModel) -> TrainedModel:
    """Return the network with input [N, C, H, W]."""
    if model.layout is Layout.NCHW:
        return model
    module, example = ChannelsFirst(model.module), model.example.permute(0, 3, 1, 2)
    return replace(model, module=module, example=example, layout=Layout.NCHW)


def save_program(module: nn.Module, images: Tensor, path: Path, facts: Mapping[str, Any]) -> None:
    """Save a network as a program with a dynamic batch, for any device.

    Source lines and paths are removed.

    Parameters
    ----------
    module
        The network, in evaluation mode.
    images
        Two images, [2, C, H, W], to trace it on.
    path
        The file to write.
    facts
        Metadata to embed, as JSON data.

    Raises
    ------
    ExportError
        torch cannot trace the network.
    """
    extra = {ARCHIVED_FACTS: json.dumps(facts)}
    torch.export.save(_open_program(module, images), path, extra_files=extra)


def _open_program(module: nn.Module, images: Tensor) -> torch.export.ExportedProgram:
    """Trace a network with a dynamic batch, such that gradients of a single image are correct."""
    program = trace(module, images, True, _ANY_BATCH)
    with quietly():
        decomposed: torch.export.ExportedProgram = program.run_decompositions(_DECOMPOSED)
    _copy_where_needed(decomposed)
    forget_sources(decomposed)
    return decomposed


def _copy_where_needed(program: torch.export.ExportedProgram) -> None:
    """Replace views by reshapes, which copy if necessary.

    With gradients enabled, attention has a different memory layout than during tracing.
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
    """Write batch normalisation at inference as a product and a sum.

    PyTorch's own has a wrong gradient for some single images (see `ContiguousNormalization`), which
    is worked around here for all users of the file.
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
    """Raise if scores or gradients of two networks differ, for two images or one of them."""
    scores, gradient = _answers(source, images)
    for count in (1, 2):
        given, slope = _answers(written, images[:count])
        _check_near("scores differ", given, scores[:count], np.inf, _SCORES_TOLERANCE)
        _check_near("gradient differs", slope, gradient[:count], 2, _GRADIENT_TOLERANCE)


def _check_near(what: str, given: Floats, expected: Floats, norm: float, tolerance: float) -> None:
    """Raise if two arrays differ, by a vector norm, by more than a fraction of the second."""
    if given.shape != expected.shape:
        raise ExportError(
            f"the surrogate returns shape {list(given.shape)}, but its source returns "
            f"{list(expected.shape)}; nothing was written; omit surrogate="
        )
    length = max(float(np.linalg.norm(expected.ravel(), norm)), 1e-30)
    difference = float(np.linalg.norm((given - expected).ravel(), norm)) / length
    if not difference <= tolerance:
        raise ExportError(
            f"the surrogate's {what} from its source's by {difference:.1e} (relative); nothing was "
            "written; omit surrogate="
        )


def _answers(source: GradientSource, images: Floats) -> tuple[Floats, Floats]:
    """Return the scores [N, K], and the gradient [N, 1, H, W] of a fixed mixture of them.

    The gradient is with respect to masks at full resolution over a black baseline, as in
    explanations.
    """
    function = source(MaskedImages(images, np.zeros_like(images)), PassCounter())
    raw, saved = function.forward(np.ones((len(images), 1, *images.shape[2:]), np.float32))
    scores = raw[OUTPUT]
    mixture = np.linspace(-1, 1, scores.shape[1], dtype=np.float32)
    return scores, function.backward(saved, {OUTPUT: np.tile(mixture, (len(scores), 1))})

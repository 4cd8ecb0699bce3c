"""`surrogate` in torch: any `nn.Module`, or a trusted `torch.export` archive (`.pt2`).

It maps the model's input, float32 [N, C, H, W] in model space, to raw class scores, [N, K]
(trailing axes of size 1 are allowed). The fidelity check measures how close it is to the model.
`surrogate_file` reads an archive's metadata; `onnx_surrogate` opens ONNX files.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch

from ibisa_onnx.errors import GradientError
from ibisa_onnx.gradients.base import Raw
from ibisa_onnx.gradients.masked_images import Floats, MaskedImages
from ibisa_onnx.gradients.normalization import ContiguousNormalization
from ibisa_onnx.gradients.surrogate_file import ARCHIVED_FACTS, SurrogateFacts, trusted_archive
from ibisa_onnx.gradients.torch_bridge import Differentiated
from ibisa_onnx.io.files import open_regular
from ibisa_onnx.models.base import ImageModel
from ibisa_onnx.models.passes import PassCounter

_WRITE_ONE = "write one with torch.export.save, or pass an nn.Module"


class SurrogateGradient:
    """A torch surrogate as a source of gradients.

    Parameters
    ----------
    source
        A `.pt2` file written by `torch.export.save`, or an `nn.Module`.
    output
        Name of the deployed model's output that it approximates.
    trust
        Whether code in a file may be executed, which `.pt2` files require.

    Raises
    ------
    GradientError
        The file is missing or not trusted, torch cannot load it, or the module is in training mode.
    """

    def __init__(
        self,
        source: str | os.PathLike[str] | torch.nn.Module,
        output: str,
        *,
        trust: bool = False,
    ) -> None:
        self.output = output
        self.facts = SurrogateFacts()
        if isinstance(source, torch.nn.Module):
            module = source
        else:
            extra = {ARCHIVED_FACTS: ""}
            program = load_program(Path(source), "surrogate", trust, extra)
            module = module_of(program, Path(source), "surrogate")
            self.facts = SurrogateFacts.read(extra[ARCHIVED_FACTS])
        _check_at_rest(module)
        self._module = module
        self._device = next((each.device for each in module.parameters()), torch.device("cpu"))

    def warnings(self, model: ImageModel) -> tuple[str, ...]:
        """Return warnings about its use as a surrogate of a deployed model."""
        found = self.facts.warnings(model)
        if any(isinstance(each, torch.jit.ScriptModule) for each in self._module.modules()):
            found.append(
                "the surrogate is TorchScript, in which PyTorch computes wrong gradients of batch "
                "normalization for some single images; pass the nn.Module itself, or an ONNX file"
            )
        return tuple(found)

    def __call__(self, masked: MaskedImages, passes: PassCounter) -> _MaskedSurrogate:
        """Return the function from masks [N, 1, h, w] to the raw scores of N images."""
        return _MaskedSurrogate(self, masked, passes)

    def scores(self, images: torch.Tensor) -> torch.Tensor:
        """Return raw scores, float32 [N, K], of images [N, C, H, W]; differentiable."""
        try:
            with ContiguousNormalization():
                raw = self._module(images.to(self._device))
        except Exception as error:
            raise GradientError(
                f"the surrogate failed on images {list(images.shape)}: {_first_line(error)}; "
                "it must accept the model's input"
            ) from error
        if not isinstance(raw, torch.Tensor):
            raise GradientError(
                f"the surrogate returned {type(raw).__name__}; it must return one tensor of scores"
            )
        return raw.reshape(len(images), -1).float().cpu()


class _MaskedSurrogate:
    """The surrogate as a function of masks: a `MaskedModel`."""

    def __init__(
        self, source: SurrogateGradient, masked: MaskedImages, passes: PassCounter
    ) -> None:
        self._source = source
        self._output, self._scores = source.output, Differentiated(source.scores)
        self._masked, self._passes = masked, passes

    def take(self, rows: Sequence[int] | npt.NDArray[Any]) -> _MaskedSurrogate:
        """Return the function for a subset of the images."""
        return _MaskedSurrogate(self._source, self._masked.take(rows), self._passes)

    def forward(self, masks: Floats) -> tuple[Raw, Any]:
        """Return raw scores, float32 [N, K], of masks [N, 1, h, w], and state for `backward`."""
        scores, saved = self._scores.forward(self._masked.through(masks))
        self._passes.count_forward(len(masks))
        return {self._output: scores}, (saved, masks.shape[2:])

    def backward(self, saved: Any, cotangents: Mapping[str, Floats]) -> Floats:
        """Return the masks' cotangent, float32 [N, 1, h, w], from the scores' [N, K]."""
        graph, grid = saved
        images = self._scores.backward(graph, cotangents[self._output])
        self._passes.count_backward(len(images))
        return self._masked.vjp(images, grid)

    def differentiated(self, saved: Any) -> None:
        """Return None: the outputs of `forward` are the differentiated ones."""

    def class_activation(self, saved: Any) -> None:
        """Return None: a module's features are unknown."""


def _check_at_rest(module: torch.nn.Module) -> None:
    """Reject a module with dropout or batch normalisation in training mode."""
    from torch.nn.modules.batchnorm import _BatchNorm
    from torch.nn.modules.dropout import _DropoutNd

    for part in module.modules():
        if part.training and isinstance(part, _BatchNorm | _DropoutNd):
            raise GradientError(
                f"the surrogate is in training mode ({type(part).__name__}); call its eval() first"
            )


def load_program(
    path: Path, what: str, trust: bool, extra_files: dict[str, str] | None = None
) -> torch.export.ExportedProgram:
    """Load a file written by `torch.export.save`, which may execute code in it.

    Parameters
    ----------
    path
        The file.
    what
        What messages call it: "surrogate" or "program".
    trust
        Whether code in the file may be executed.
    extra_files
        Names of files in the archive as keys; values are replaced by their contents.

    Raises
    ------
    GradientError
        The file is missing or not trusted, or torch cannot load it.
    """
    if not trusted_archive(path, what, trust):
        raise GradientError(f"{path} is not a {what} that torch can load; {_WRITE_ONE}")
    causes: list[BaseException] = []

    def keep_cause(record: logging.LogRecord) -> bool:
        """Suppress the traceback that torch logs before it raises a vaguer error."""
        if record.exc_info and record.exc_info[1]:
            causes.append(record.exc_info[1])
        return False

    log = logging.getLogger("torch.export")
    log.addFilter(keep_cause)
    try:
        # An open file rather than a path, which torch requires to end in .pt2.
        with open_regular(path, what, GradientError) as file:
            return torch.export.load(file, extra_files=extra_files)
    except GradientError:
        raise
    except Exception as error:
        raise _cannot_load(path, what, causes[0] if causes else error) from error
    finally:
        log.removeFilter(keep_cause)


def module_of(program: torch.export.ExportedProgram, path: Path, what: str) -> torch.nn.Module:
    """Return a loaded program as a module; arguments as for `load_program`.

    Raises
    ------
    GradientError
        The program is malformed.
    """
    try:
        return program.module()
    except Exception as error:
        raise _cannot_load(path, what, error) from error


def _cannot_load(path: Path, what: str, error: BaseException) -> GradientError:
    cause = _first_line(error).split(". ")[0]
    return GradientError(f"{path} is not a {what} that torch can load ({cause}); {_WRITE_ONE}")


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), repr(error))

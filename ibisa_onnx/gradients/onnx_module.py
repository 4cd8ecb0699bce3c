"""An ONNX model as a torch module, for attribution methods that ask torch for gradients."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ibisa_onnx.imports import missing_extra

try:
    import torch
except ImportError as error:
    raise missing_extra("torch", "torch", error) from error

import numpy.typing as npt
import onnx

from ibisa_onnx.autodiff.joint import derivative_of
from ibisa_onnx.errors import ModelError
from ibisa_onnx.gradients.torch_bridge import differentiable
from ibisa_onnx.models.onnx_file import ModelFile, essence
from ibisa_onnx.models.ort import import_onnxruntime
from ibisa_onnx.models.providers import resolve_providers
from ibisa_onnx.models.session_options import ONLY_FATAL, create_session, serialise

if TYPE_CHECKING:
    import onnxruntime


class OnnxModule(torch.nn.Module):
    """A model of one input, run by ONNX Runtime, whose output torch can differentiate once.

    It has no parameters, and no layers to hook. Tensors may be on any device and come back there.

    Parameters
    ----------
    model
        The path or the bytes of an ONNX file.
    output
        What to return, any float tensor of the model; None: its first output.
    providers
        Execution providers, short or full names; empty: CUDA where it works, else the CPU.
    threads
        CPU threads within an operator; None: ONNX Runtime's own choice.

    Raises
    ------
    UnsupportedOperatorError
        An operator has no rule.
    ModelError
        The file cannot be read, takes more than one tensor, or ONNX Runtime refuses a graph.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | bytes,
        *,
        output: str | None = None,
        providers: Sequence[str] = (),
        threads: int | None = None,
    ) -> None:
        super().__init__()
        self._function = differentiable(_Pair(model, output, providers, threads))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Return the output for the model's input, in the model's own shapes and dtypes."""
        return self._function(values.cpu().contiguous()).to(values.device)


class _Pair:
    """Both graphs of a model: a `VectorJacobian`, of any shapes."""

    def __init__(
        self,
        source: str | os.PathLike[str] | bytes,
        output: str | None,
        providers: Sequence[str],
        threads: int | None,
    ) -> None:
        file = ModelFile.of(source)
        derivative = derivative_of(source, output=output)
        inputs = [each.name for each in derivative.forward.graph.input]
        if len(inputs) > 1:
            raise ModelError(f"{file.label} takes more than one tensor: {', '.join(inputs)}")
        names = resolve_providers(providers)
        self._derivative = replace(derivative, forward=_NONE, backward=_NONE)
        self._forward, self._backward = (
            create_session(serialise(graph, file.label), names, threads, file.folder)
            for graph in (derivative.forward, derivative.backward)
        )

    def forward(self, values: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], dict[str, Any]]:
        """Return the output, and the activations that `backward` needs."""
        names = self._derivative
        given = import_onnxruntime().OrtValue.ortvalue_from_numpy(values)
        output, *saved = _run(self._forward, [names.output, *names.saved], {names.input: given})
        return output.numpy(), dict(zip(names.saved, saved, strict=True))

    def backward(self, saved: dict[str, Any], cotangent: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return the input's cotangent from the output's."""
        names = self._derivative
        given = import_onnxruntime().OrtValue.ortvalue_from_numpy(cotangent)
        feeds = {names.cotangent: given, **saved}
        needed = {each.name for each in self._backward.get_inputs()}
        feeds = {name: value for name, value in feeds.items() if name in needed}
        (gradient,) = _run(self._backward, [names.gradient], feeds)
        result: npt.NDArray[Any] = gradient.numpy()
        return result


_NONE = onnx.ModelProto()  # in place of graphs whose sessions are open


def _run(
    session: onnxruntime.InferenceSession, names: list[str], feeds: dict[str, Any]
) -> list[Any]:
    """Run, and say in one line why it failed."""
    options = import_onnxruntime().RunOptions()
    options.log_severity_level = ONLY_FATAL
    try:
        values: list[Any] = session.run_with_ort_values(names, feeds, options)
    except Exception as error:
        raise ModelError(f"the model failed to run: {essence(error)}") from error
    return values

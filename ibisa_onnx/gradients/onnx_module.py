"""An ONNX model as a torch module, for attribution methods built on torch's autograd."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from ibisa_onnx.imports import missing_extra

try:
    import torch
except ImportError as error:
    raise missing_extra("torch", "torch", error) from error

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto

from ibisa_onnx.autodiff.driver import Derivative, differentiate
from ibisa_onnx.autodiff.joint import read_model
from ibisa_onnx.caching import BuiltOnce
from ibisa_onnx.errors import GradientError, IbisaError, ModelError, OptionError
from ibisa_onnx.gradients.excerpt import Excerpt, excerpt
from ibisa_onnx.gradients.opaque_module import OpaqueModule
from ibisa_onnx.gradients.torch_bridge import differentiable
from ibisa_onnx.io.files import Buffer, is_buffer
from ibisa_onnx.models.onnx_file import ModelFile
from ibisa_onnx.models.ort import import_onnxruntime
from ibisa_onnx.models.ort_messages import essence
from ibisa_onnx.models.providers import resolve_providers
from ibisa_onnx.models.running import run_values
from ibisa_onnx.models.session_options import open_graph

if TYPE_CHECKING:
    import onnxruntime

_DTYPES = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.DOUBLE: torch.float64,
    TensorProto.UINT8: torch.uint8,
    TensorProto.UINT16: torch.uint16,
    TensorProto.INT8: torch.int8,
    TensorProto.INT16: torch.int16,
    TensorProto.INT32: torch.int32,
    TensorProto.INT64: torch.int64,
}


class OnnxModule(OpaqueModule):
    """An ONNX model as a `torch.nn.Module`, run by ONNX Runtime and differentiable by torch.

    The module accepts and returns one tensor, on any device; the output is on the device of the
    input. It has nothing to train: its only parameter has no elements, and `to()`, `half()` and
    `eval()` do not change the result. It has no inner layers; attribution methods that look for
    them trigger a warning (see `OpaqueModule`).

    `torch.func` is supported: `grad`, `vjp`, `jacrev` and `vmap`, and the forward-mode `jvp` and
    `jacfwd` if the operators of the backward graph have gradient rules themselves. Second
    derivatives raise `GradientError`.

    The module can be pickled and copied. A model opened by path is pickled as its path and the
    file's digest. A forked process opens its own sessions.

    Parameters
    ----------
    model
        Path or bytes of an ONNX file.
    output
        Name of the tensor to return, any float tensor of the model. Default: the first output.
    input
        Name of the tensor to start from, any tensor that all paths to the output go through.
        Default: the model's only input.
    logits
        Return the input of the softmax or sigmoid that computes `output`, in its own shape. An
        output that is computed by neither is returned unchanged.
    providers
        Execution providers, by short or full name. Default: CUDA if it works, else the CPU.
    threads
        CPU threads within an operator. Default: ONNX Runtime's choice.

    Raises
    ------
    UnsupportedOperatorError
        An operator on the path has no gradient rule.
    ModelError
        The file cannot be read, has several inputs, or has no such tensor or logits, or ONNX
        Runtime rejects a graph.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | Buffer,
        *,
        output: str | None = None,
        input: str | None = None,
        logits: bool = False,
        providers: Sequence[str] = (),
        threads: int | None = None,
    ) -> None:
        if is_buffer(model):
            model = bytes(cast("Buffer", model))
        if not isinstance(model, str | os.PathLike | bytes):
            raise OptionError(
                f"model is {type(model).__name__}; pass a path or the bytes of a file"
            )
        part = _Part(_Asked(model, output, input, bool(logits), tuple(providers), threads))
        super().__init__(part.dtype if part.dtype.is_floating_point else torch.float32)
        self._part = part
        self.begins_inside, self.ends_inside = part.begins_inside, part.ends_inside

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Run the model.

        Parameters
        ----------
        values
            The model's input. Floats of any precision are converted to the model's dtype, and
            rounded for a model with integer input; the gradient has the dtype of `values`.

        Returns
        -------
        torch.Tensor
            The output, in the wider of the model's dtype and that of `values`. Integer outputs
            computed from floats become float32.

        Raises
        ------
        OptionError
            `values` is not a tensor.
        ModelError
            ONNX Runtime fails on this input.
        """
        if not isinstance(values, torch.Tensor):
            raise OptionError(
                f"OnnxModule was called with {type(values).__name__}; pass a torch tensor"
            )
        given = values.cpu()
        if values.is_floating_point():
            given = given.to(self._part.dtype if self._part.is_float else torch.float32)
        result = differentiable(self._part)(given.contiguous())
        if values.is_floating_point() and result.is_floating_point():
            result = result.to(torch.promote_types(values.dtype, result.dtype))
        return result.to(values.device)

    def extra_repr(self) -> str:
        """Return the file name and both tensors, for `repr`."""
        return str(self._part)


@dataclass(frozen=True)
class _Asked:
    """The arguments of an `OnnxModule`."""

    source: str | os.PathLike[str] | bytes
    output: str | None
    input: str | None
    logits: bool
    providers: tuple[str, ...]
    threads: int | None


@dataclass(frozen=True)
class _Kept:
    """State saved for derivatives: activations, and the output's shape and dtype."""

    activations: Mapping[str, Any]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


class _Part:
    """A model between two of its tensors: a `VectorJacobian` and `JacobianVector` of any shape.

    `sha256` is the required digest of the file; None: any.
    """

    def __init__(self, asked: _Asked, sha256: str | None = None) -> None:
        self._asked, self._file = asked, ModelFile.of(asked.source)
        if sha256 is not None and self._file.sha256() not in (sha256, None):
            raise ModelError(
                f"{self._file.path} is not the file that was pickled (sha256 {sha256[:12]}); "
                "restore that file, or create a new OnnxModule"
            )
        self._open: BuiltOnce[_Sessions] = BuiltOnce()
        self._transposed: BuiltOnce[_Sessions] = BuiltOnce()
        part = self._excerpt()
        derivative = differentiate(part.model, part.input, part.output)
        self._names = replace(derivative, forward=_NONE, backward=_NONE)
        self.begins_inside, self.ends_inside = part.begins_inside, part.ends_inside
        self.dtype = _dtype(part, self._file.label)
        self._open.get(os.getpid(), lambda: self._sessions(derivative))

    def __reduce__(self) -> tuple[type[_Part], tuple[_Asked, str | None]]:
        if self._file.path is None:
            return type(self), (self._asked, None)
        # Absolute, so that it can be unpickled in any working directory.
        return type(self), (replace(self._asked, source=self._file.path), self._file.sha256())

    def __deepcopy__(self, memo: dict[int, Any]) -> _Part:
        return self  # immutable

    def __str__(self) -> str:
        return f"{self._file.label}: {self._names.input} -> {self._names.output}"

    @property
    def is_float(self) -> bool:
        """Whether the model's input has a float dtype."""
        return self.dtype.is_floating_point

    def forward(self, values: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], _Kept]:
        """Return the output, and state for `backward` and `jvp`."""
        real = values.dtype.kind == "f"
        if real and not self.is_float:
            values = _rounded(values, self.dtype)
        # Sessions do not survive a fork: they would wait for threads of the parent.
        sessions = self._open.get(os.getpid(), self._reopen)
        raw, activations = sessions.forward({self._names.input: _value(values)})
        output = raw.numpy()
        if real and output.dtype.kind in "iu":
            output = output.astype(np.float32)
        return output, _Kept(activations, output.shape, output.dtype)

    def backward(self, saved: _Kept, cotangent: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return the input's cotangent from the output's."""
        sessions = self._open.get(os.getpid(), self._reopen)
        return sessions.backward(saved.activations, cotangent)

    def jvp(self, saved: _Kept, tangent: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return the output's tangent from the input's.

        The backward graph is linear in the cotangent, J^T c, so its derivative with respect to c,
        at any c, is the transpose: J.

        Raises
        ------
        GradientError
            An operator of the backward graph has no gradient rule.
        """
        sessions = self._transposed.get(os.getpid(), self._transpose)
        anywhere = np.zeros(saved.shape, saved.dtype)
        feeds = {self._names.cotangent: _value(anywhere), **saved.activations}
        _, activations = sessions.forward(feeds)
        return sessions.backward({**saved.activations, **activations}, tangent)

    def _excerpt(self) -> Excerpt:
        asked, model = self._asked, read_model(self._file)
        return excerpt(
            model, self._file.label, input=asked.input, output=asked.output, logits=asked.logits
        )

    def _derivative(self) -> Derivative:
        part = self._excerpt()
        return differentiate(part.model, part.input, part.output)

    def _reopen(self) -> _Sessions:
        return self._sessions(self._derivative())

    def _transpose(self) -> _Sessions:
        derivative = self._derivative()
        try:
            transposed = differentiate(
                derivative.backward, derivative.cotangent, derivative.gradient
            )
        except GradientError as error:
            raise GradientError(
                f"{self._file.label} has no forward-mode derivative ({error}); "
                "use reverse mode (grad, vjp, jacrev)"
            ) from error
        return self._sessions(transposed)

    def _sessions(self, derivative: Derivative) -> _Sessions:
        providers = resolve_providers(self._asked.providers)
        return _Sessions(derivative, self._file, providers, self._asked.threads)


class _Sessions:
    """Sessions of both graphs of a derivative."""

    def __init__(
        self, derivative: Derivative, file: ModelFile, providers: list[str], threads: int | None
    ) -> None:
        self._names, self._label = replace(derivative, forward=_NONE, backward=_NONE), file.label
        self._forward, self._backward = (
            _session(graph, file, providers, threads)
            for graph in (derivative.forward, derivative.backward)
        )

    def forward(self, feeds: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Return the output, and the activations that `backward` needs."""
        saved = self._names.saved
        output, *rest = self._run(self._forward, [self._names.output, *saved], feeds)
        return output, dict(zip(saved, rest, strict=True))

    def backward(
        self, activations: Mapping[str, Any], cotangent: npt.NDArray[Any]
    ) -> npt.NDArray[Any]:
        """Return the input's cotangent from the output's."""
        feeds = {**activations, self._names.cotangent: _value(cotangent)}
        (gradient,) = self._run(self._backward, [self._names.gradient], feeds)
        result: npt.NDArray[Any] = gradient.numpy()
        return result

    def _run(
        self, session: onnxruntime.InferenceSession, names: list[str], feeds: Mapping[str, Any]
    ) -> list[Any]:
        """Run with the values that the session has as inputs."""
        needed = {each.name for each in session.get_inputs()}
        given = {name: value for name, value in feeds.items() if name in needed}
        return run_values(session, names, given, self._label)


_NONE = onnx.ModelProto()  # replaces graphs whose sessions are open


def _dtype(part: Excerpt, label: str) -> torch.dtype:
    """Return the torch dtype of a part's input."""
    elem = part.model.graph.input[0].type.tensor_type.elem_type
    if elem not in _DTYPES:
        name = TensorProto.DataType.Name(elem)
        raise ModelError(
            f"{label} requires {name} at {part.input!r}, which torch tensors cannot provide; "
            "start from another tensor with input="
        )
    return _DTYPES[elem]


def _session(
    graph: onnx.ModelProto, file: ModelFile, providers: list[str], threads: int | None
) -> onnxruntime.InferenceSession:
    """Open a graph; the error says in one line why ONNX Runtime rejects it."""
    try:
        return open_graph(graph, file, providers, threads)
    except IbisaError:
        raise
    except Exception as error:
        raise ModelError(
            f"ONNX Runtime cannot open a graph made from {file.label}: {essence(error)}"
        ) from error


def _rounded(values: npt.NDArray[Any], dtype: torch.dtype) -> npt.NDArray[Any]:
    """Round floats to the nearest integers of a dtype."""
    limits = torch.iinfo(dtype)
    name = str(dtype).removeprefix("torch.")
    nearest = np.rint(values.astype(np.float64))  # float32 cannot represent the limits of int32
    rounded: npt.NDArray[Any] = np.clip(nearest, limits.min, limits.max).astype(name)
    return rounded


def _value(values: npt.NDArray[Any]) -> Any:
    return import_onnxruntime().OrtValue.ortvalue_from_numpy(values)

"""An ONNX model as a torch module, for attribution methods that ask torch for gradients."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

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
    """A model of one input, run by ONNX Runtime, whose output torch can differentiate once.

    Tensors may be on any device and come back there. It has nothing to train: its one parameter has
    no elements, and `to()`, `half()` and `eval()` change nothing that it computes. There are no
    layers inside; methods that look for some are warned of (`OpaqueModule`).

    `torch.func` works on it: `grad`, `vjp`, `jacrev` and `vmap`, and in forward mode `jvp` and
    `jacfwd` where the backward graph has rules itself. A second derivative raises `GradientError`.

    It can be pickled and copied. A model that was opened by its path is pickled as the path and the
    file's digest. A process that was forked opens sessions of its own.

    Parameters
    ----------
    model
        The path or the bytes of an ONNX file.
    output
        What to return, any float tensor of the model; None: its first output.
    input
        Where to begin, any tensor of the model that all paths to the output go through; None: its
        input.
    logits
        Return what goes into the softmax or sigmoid that makes `output`, in the shape that it has
        there. An output that neither makes is left as it is.
    providers
        Execution providers, short or full names; empty: CUDA where it works, else the CPU.
    threads
        CPU threads within an operator; None: ONNX Runtime's own choice.

    Raises
    ------
    UnsupportedOperatorError
        An operator has no rule.
    ModelError
        The file cannot be read, takes more than one tensor, has no such tensor or logits, or ONNX
        Runtime refuses a graph.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | bytes,
        *,
        output: str | None = None,
        input: str | None = None,
        logits: bool = False,
        providers: Sequence[str] = (),
        threads: int | None = None,
    ) -> None:
        if not isinstance(model, str | os.PathLike | bytes):
            raise OptionError(
                f"model is {type(model).__name__}; give a path or the bytes of a file"
            )
        part = _Part(_Asked(model, output, input, bool(logits), tuple(providers), threads))
        super().__init__(part.dtype if part.dtype.is_floating_point else torch.float32)
        self._part = part
        self.begins_inside, self.ends_inside = part.begins_inside, part.ends_inside

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Return the output for the model's input.

        Floats of any precision are converted to the model's dtype, for a model of bytes rounded;
        the gradient has their dtype. The output has the model's own dtype, or that of `values` if
        that is wider; integers made from floats become float32.
        """
        if not isinstance(values, torch.Tensor):
            raise OptionError(
                f"OnnxModule was called with {type(values).__name__}; give a torch tensor"
            )
        given = values.cpu()
        if values.is_floating_point():
            given = given.to(self._part.dtype if self._part.is_float else torch.float32)
        result = differentiable(self._part)(given.contiguous())
        if values.is_floating_point() and result.is_floating_point():
            result = result.to(torch.promote_types(values.dtype, result.dtype))
        return result.to(values.device)

    def extra_repr(self) -> str:
        """Name the file and both tensors."""
        return str(self._part)


@dataclass(frozen=True)
class _Asked:
    """What an `OnnxModule` was asked for; see there."""

    source: str | os.PathLike[str] | bytes
    output: str | None
    input: str | None
    logits: bool
    providers: tuple[str, ...]
    threads: int | None


@dataclass(frozen=True)
class _Kept:
    """What derivatives need of an evaluation: activations, and the output's shape and dtype."""

    activations: Mapping[str, Any]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


class _Part:
    """A model between two of its tensors: a `VectorJacobian` and `JacobianVector`, of any shapes.

    `sha256` is the digest that the file must have; None: any.
    """

    def __init__(self, asked: _Asked, sha256: str | None = None) -> None:
        self._asked, self._file = asked, ModelFile.of(asked.source)
        if sha256 is not None and self._file.sha256() not in (sha256, None):
            raise ModelError(
                f"{self._file.path} is not the file that was pickled (sha256 {sha256[:12]}); "
                "put that back, or open the module anew"
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
        # Absolute, whatever folder it is read back in.
        return type(self), (replace(self._asked, source=self._file.path), self._file.sha256())

    def __deepcopy__(self, memo: dict[int, Any]) -> _Part:
        return self  # nothing in it changes

    def __str__(self) -> str:
        return f"{self._file.label}: {self._names.input} -> {self._names.output}"

    @property
    def is_float(self) -> bool:
        """Whether the model's input is of floats."""
        return self.dtype.is_floating_point

    def forward(self, values: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], _Kept]:
        """Return the output, and what `backward` and `jvp` need."""
        real = values.dtype.kind == "f"
        if real and not self.is_float:
            values = _rounded(values, self.dtype)
        # Sessions do not survive a fork: the threads that they wait for are the parent's.
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
            The backward graph has an operator without a rule.
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
    """Both graphs of a derivative, open."""

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
        """Run with those of the values that the session takes."""
        needed = {each.name for each in session.get_inputs()}
        given = {name: value for name, value in feeds.items() if name in needed}
        return run_values(session, names, given, self._label)


_NONE = onnx.ModelProto()  # in place of graphs whose sessions are open


def _dtype(part: Excerpt, label: str) -> torch.dtype:
    """Return what torch calls the dtype of a part's input."""
    elem = part.model.graph.input[0].type.tensor_type.elem_type
    if elem not in _DTYPES:
        name = TensorProto.DataType.Name(elem)
        raise ModelError(
            f"{label} takes {name} at {part.input!r}, which cannot be handed over from torch; "
            "begin at another tensor (input=)"
        )
    return _DTYPES[elem]


def _session(
    graph: onnx.ModelProto, file: ModelFile, providers: list[str], threads: int | None
) -> onnxruntime.InferenceSession:
    """Open a graph, or say in one line why ONNX Runtime does not."""
    try:
        return open_graph(graph, file, providers, threads)
    except IbisaError:
        raise
    except Exception as error:
        raise ModelError(
            f"ONNX Runtime cannot open a graph made from {file.label}: {essence(error)}"
        ) from error


def _rounded(values: npt.NDArray[Any], dtype: torch.dtype) -> npt.NDArray[Any]:
    """Return floats as the integers that are nearest to them."""
    limits = torch.iinfo(dtype)
    name = str(dtype).removeprefix("torch.")
    nearest = np.rint(values.astype(np.float64))  # in float32 the limits of 32 bits are rounded
    rounded: npt.NDArray[Any] = np.clip(nearest, limits.min, limits.max).astype(name)
    return rounded


def _value(values: npt.NDArray[Any]) -> Any:
    return import_onnxruntime().OrtValue.ortvalue_from_numpy(values)

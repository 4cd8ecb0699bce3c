"""`exact`: a backward ONNX graph, built from the deployed file and run by the same ONNX Runtime.

The bottleneck is a part of both graphs, so that masks go in and their gradients come out.
Activations stay as ONNX Runtime values on the device where they were computed, so nothing is
computed twice and nothing copied.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx

from ibisa_onnx.autodiff import Derivative, differentiate
from ibisa_onnx.errors import (
    GradientError,
    ModelError,
    ResultError,
)
from ibisa_onnx.gradients.base import power_of_two
from ibisa_onnx.gradients.cache import VARIABLE, GradientCache
from ibisa_onnx.gradients.masked_graph import Names, insert_bottleneck
from ibisa_onnx.gradients.precision import is_quantised, uses_half
from ibisa_onnx.methods.masking import Bottleneck
from ibisa_onnx.models.onnx_file import essence
from ibisa_onnx.models.onnx_session import DeployedModel
from ibisa_onnx.models.providers import import_onnxruntime
from ibisa_onnx.models.weights import Weights, read_missing, take_weights
from ibisa_onnx.targets.classification import Quantisation

if TYPE_CHECKING:
    import onnxruntime

_DEVICES = {
    "CUDAExecutionProvider": "cuda",
    "TensorrtExecutionProvider": "cuda",
    "NvTensorRTRTXExecutionProvider": "cuda",
}

Shape = tuple[int, ...]


class ExactGradient:
    """One output of a deployed model, differentiated with respect to masks right after the image.

    Called with a bottleneck, it gives the function from masks to raw outputs.

    Parameters
    ----------
    model
        The model; its passes are counted there.
    output
        The output's name.
    cache
        Where graphs that were built before are kept; None: nowhere.
    quantisation
        How the output's integers stand for reals; None where it holds floats.

    Raises
    ------
    GradientError
        The graph cannot be read from this source, or (UnsupportedOperatorError) an operator on the
        path has no rule.
    ModelError
        ONNX Runtime refuses a graph.
    """

    def __init__(
        self,
        model: DeployedModel,
        output: str,
        cache: GradientCache | None = None,
        quantisation: Quantisation | None = None,
    ) -> None:
        proto = model.proto()
        if proto is None:
            raise GradientError(
                f"no exact gradient: {model.file.why_no_graph}; use --gradient forward-only"
            )
        self.model, self.quantisation = model, quantisation or Quantisation(1)
        self.names = Names.free_in(proto, model.image)
        derivative, weights = _derivative(model, output, proto, self.names, cache)
        del proto
        self.half = uses_half(derivative.forward)
        self.quantised = is_quantised(derivative.forward, model.image.name)
        self.output, self.saved = derivative.output, derivative.saved
        self.cotangent, self.gradient = derivative.cotangent, derivative.gradient
        self.forward = model.new_session(derivative.forward, weights)
        self.backward = model.new_session(derivative.backward, weights)

    def __call__(self, bottleneck: Bottleneck) -> _MaskedModel:
        """Return the function from masks [N, 1, h, w] to raw outputs [N, K] of one bottleneck."""
        return _MaskedModel(self, bottleneck)


class _MaskedModel:
    """Masks of one bottleneck through the model and back: a `VectorJacobian`.

    Buffers that nobody can ask a gradient of any more are used again, so that a step allocates
    nothing, and steps in turn need the memory of one.
    """

    def __init__(self, source: ExactGradient, bottleneck: Bottleneck) -> None:
        self._source, self._bottleneck = source, bottleneck
        self._free: dict[Shape, list[_Buffers]] = {}

    def forward(self, masks: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float32], _Lease]:
        """Return the output's reals, float32 [N, K], of masks [N, 1, h, w], and its buffers."""
        filled = _fill(masks, self._source.model.image.batch)
        free = self._free.setdefault(filled.shape, [])
        raw, lease = self._again(filled, free) or self._anew(filled, free)
        reals = raw[: len(masks)].reshape(len(masks), -1).astype(np.float32)
        quantisation = self._source.quantisation
        if quantisation != Quantisation(1):
            reals = (reals - np.float32(quantisation.zero_point)) * np.float32(quantisation.scale)
        return reals, lease

    def backward(
        self, saved: _Lease, cotangent: npt.NDArray[np.float32]
    ) -> npt.NDArray[np.float32]:
        """Return the masks' cotangent, float32 [N, 1, h, w], from the output's [N, K]."""
        return saved.buffers.backward(cotangent * np.float32(self._source.quantisation.scale))

    def _again(
        self, masks: npt.NDArray[np.float32], free: list[_Buffers]
    ) -> tuple[npt.NDArray[Any], _Lease] | None:
        """Run in buffers that are free; None where there are none, or they do not fit."""
        if not free:
            return None
        lease = _Lease(free.pop(), free)
        try:
            return lease.buffers.forward(masks), lease
        except ModelError:  # an activation whose shape depends on values; if not, it fails anew
            lease.free = []
            return None

    def _anew(
        self, masks: npt.NDArray[np.float32], free: list[_Buffers]
    ) -> tuple[npt.NDArray[Any], _Lease]:
        """Run in new buffers."""
        lease = _Lease(_Buffers(self._source, self._bottleneck, masks.shape), free)
        return lease.buffers.forward(masks), lease


class _Lease:
    """Buffers in use: they are free again once nothing refers to this."""

    def __init__(self, buffers: _Buffers, free: list[_Buffers]) -> None:
        self.buffers, self.free = buffers, free

    def __del__(self) -> None:
        self.free.append(self.buffers)


class _Buffers:
    """The inputs and outputs of both sessions, bound to memory for masks of one shape."""

    def __init__(self, source: ExactGradient, bottleneck: Bottleneck, shape: Shape) -> None:
        OrtValue = import_onnxruntime().OrtValue  # noqa: N806
        self._source = source
        self._forward = source.forward.io_binding()
        self._backward = source.backward.io_binding()
        self._cotangent_is_needed = source.cotangent in _inputs(source.backward)
        self._outputs: list[Any] = []
        self._gradient: Any = None
        place, needed = _place(source.model), _inputs(source.forward)
        given = source.names.constants(bottleneck, (shape[2], shape[3]))
        given |= source.model.extra_feed(shape[0])
        # Kept, because on the CPU they are the arrays' own memory, which a binding may not keep.
        self._given = [
            (name, given[name], OrtValue.ortvalue_from_numpy(given[name], *place))
            for name in needed.intersection(given)
        ]
        for name, _, value in self._given:
            self._forward.bind_ortvalue_input(name, value)
        self._forward.bind_output(source.output, "cpu")
        for name in source.saved:
            self._forward.bind_output(name, *place)
        self._backward.bind_output(source.gradient, "cpu")

    def forward(self, masks: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
        """Return the raw output [N, ...], valid until the next call."""
        self._forward.bind_cpu_input(self._source.names.mask, masks)
        _run(self._source.forward, self._forward)
        passes = 2 if self._source.quantised else 1  # the deployed one, and the float one beside it
        self._source.model.passes.count_forward(passes * len(masks))
        if not self._outputs:  # from the first run on they are where they are
            self._outputs = self._forward.get_outputs()
            needed = _inputs(self._source.backward)
            for name, value in zip(self._source.saved, self._outputs[1:], strict=True):
                if name in needed:
                    self._backward.bind_ortvalue_input(name, value)
        raw: npt.NDArray[Any] = self._outputs[0].numpy()
        return raw

    def backward(self, cotangent: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return the masks' cotangent [N, 1, h, w] from the output's [N, K]."""
        filled, scale = self._whole(cotangent)
        if self._cotangent_is_needed:
            self._backward.bind_cpu_input(self._source.cotangent, filled)
        _run(self._source.backward, self._backward)
        self._source.model.passes.count_backward(len(filled))
        if self._gradient is None:
            (self._gradient,) = self._backward.get_outputs()
        gradient = self._gradient.numpy()[: len(cotangent)]
        return np.asarray(gradient * scale)  # a copy: the memory is used again

    def _whole(self, cotangent: npt.NDArray[np.float32]) -> tuple[npt.NDArray[Any], np.float32]:
        """Return the cotangent in the output's shape and dtype, and what it was divided by."""
        raw = self._outputs[0].numpy()
        scale = np.float32(power_of_two(cotangent, half=self._source.half))
        if scale == 1 and len(cotangent) == len(raw) and raw.dtype == np.float32:
            return cotangent.reshape(raw.shape), scale
        dtype = raw.dtype if raw.dtype.kind == "f" else np.float32
        filled = np.zeros(raw.shape, dtype)
        filled.reshape(len(raw), -1)[: len(cotangent)] = cotangent / scale
        return filled, scale


def _derivative(
    model: DeployedModel,
    output: str,
    proto: onnx.ModelProto,
    names: Names,
    cache: GradientCache | None,
) -> tuple[Derivative, Weights]:
    """Return the two graphs without weights, built or found in the cache, and the weights."""
    made_from = (model.sha256 or "", repr(model.image), output) if cache else ()
    derivative = cache.load(*made_from) if cache else None
    if derivative is not None:
        return derivative, read_missing(proto, derivative.forward, derivative.backward)
    known = {tensor.name for tensor in proto.graph.initializer}
    insert_bottleneck(proto, model.image, names)
    derivative = _differentiate(proto, names.mask, output)
    take_weights(derivative.forward, known)
    take_weights(derivative.backward, known)
    if cache:
        try:
            cache.store(derivative, *made_from)
        except ResultError as error:
            model.warnings.append(
                f"the gradient is not kept for the next time: {error}, or {VARIABLE}=off"
            )
    return derivative, read_missing(proto, derivative.forward, derivative.backward)


def _differentiate(model: onnx.ModelProto, mask: str, output: str) -> Derivative:
    """Build the two graphs, or say what to do without."""
    try:
        return differentiate(model, mask, output)
    except GradientError as error:
        raise type(error)(f"{error}; use a surrogate or forward-only gradient") from error


def _inputs(session: onnxruntime.InferenceSession) -> set[str]:
    return {each.name for each in session.get_inputs()}


def _place(model: DeployedModel) -> tuple[str, int]:
    """Return the kind and the number of the device on which the model runs."""
    provider = model.providers[0]
    options = model.session.get_provider_options().get(provider, {})
    device = _DEVICES.get(provider, "cpu")
    return device, 0 if device == "cpu" else int(options.get("device_id", 0))


def _fill(masks: npt.NDArray[np.float32], batch: int | None) -> npt.NDArray[np.float32]:
    """Repeat the last mask up to the model's batch, where that is fixed."""
    missing = (batch or 0) - len(masks)
    if missing <= 0:
        return np.ascontiguousarray(masks)
    return np.concatenate([masks, np.repeat(masks[-1:], missing, axis=0)])


def _run(session: onnxruntime.InferenceSession, binding: Any) -> None:
    """Run, and say in one line why it failed."""
    try:
        session.run_with_iobinding(binding)
    except Exception as error:
        raise ModelError(f"the gradient graph failed to run: {essence(error)}") from error

"""`exact`: a backward ONNX graph, built from the deployed file and run in the same ONNX Runtime.

Masking is part of both graphs, which therefore map masks to outputs and cotangents to gradients of
masks. Activations remain ONNX Runtime values on the device that computed them: nothing is
recomputed or copied.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx

from ibisa_onnx.autodiff import Derivative, differentiate
from ibisa_onnx.errors import (
    GradientError,
    IbisaError,
    ModelError,
    ResultError,
    UnsupportedOperatorError,
)
from ibisa_onnx.gradients.base import Raw, power_of_two
from ibisa_onnx.gradients.cache import VARIABLE, GradientCache, fits
from ibisa_onnx.gradients.class_activation import class_activation_at, deep_features
from ibisa_onnx.gradients.layer import SpatialTensor
from ibisa_onnx.gradients.masked_graph import Names, insert_masked_images
from ibisa_onnx.gradients.masked_images import Floats, MaskedImages
from ibisa_onnx.gradients.precision import is_quantised, uses_half
from ibisa_onnx.models.head import Head
from ibisa_onnx.models.onnx_session import DeployedModel
from ibisa_onnx.models.ort import import_onnxruntime
from ibisa_onnx.models.passes import PassCounter
from ibisa_onnx.models.running import run_bound
from ibisa_onnx.models.weights import Weights, read_missing, take_weights

if TYPE_CHECKING:
    import onnxruntime

_DEVICES = {
    "CUDAExecutionProvider": "cuda",
    "TensorrtExecutionProvider": "cuda",
    "NvTensorRTRTXExecutionProvider": "cuda",
}

Shape = tuple[int, ...]


class ExactGradient:
    """Exact gradient of a deployed model's tensors with respect to masks applied to the images.

    Called with masked images, it returns the function from masks to these tensors. Several tensors
    are differentiated together, as one row of all their values per image.

    Parameters
    ----------
    model
        The model.
    outputs
        Names of outputs, or of any other tensors.
    cache
        Cache of backward graphs; None: no caching.
    size
        Height and width of the model's input, to compute class activation maps with the gradient;
        None: without them. If the model does not support them, a warning is added.

    Raises
    ------
    GradientError
        The graph cannot be read from this source, or (UnsupportedOperatorError) an operator on the
        path has no rule.
    ModelError
        ONNX Runtime rejects a graph.
    """

    def __init__(
        self,
        model: DeployedModel,
        outputs: tuple[str, ...],
        cache: GradientCache | None = None,
        size: tuple[int, int] | None = None,
    ) -> None:
        self.model, self.outputs = model, outputs
        try:
            self._open(cache, size)
        except IbisaError as error:
            if size is None or isinstance(error, UnsupportedOperatorError):
                raise
            self._open(cache, None)  # raises again if class activation is not the cause
            model.warnings.append(f"class activation is not available: {error.problem}")

    def _open(self, cache: GradientCache | None, size: tuple[int, int] | None) -> None:
        """Build both graphs, or load them from the cache, and open their sessions."""
        model, proto = self.model, self._proto()
        self.names = Names.free_in(proto, model.image)
        made_from = (model.identity, repr(model.image), repr(size), *self.outputs) if cache else ()
        kept = cache.load(*made_from) if cache else None
        if kept is not None and fits(kept, proto, self.names.inputs, self.outputs):
            weights = read_missing(proto, kept.forward, kept.backward)
            del proto
            try:
                return self._start(kept, weights)
            except ModelError:  # an entry that ONNX Runtime rejects is rebuilt
                proto = self._proto()
        built = _built(model, self.outputs, proto, self.names, size)
        if cache:
            _keep(cache, built, made_from, model)
        weights = read_missing(proto, built.forward, built.backward)
        del proto
        return self._start(built, weights)

    def _proto(self) -> onnx.ModelProto:
        """Return the deployed graph; GradientError if it cannot be read."""
        proto = self.model.proto()
        if proto is None:
            why = self.model.file.why_no_graph
            raise GradientError(f"no exact gradient: {why}", "use gradient='forward-only'")
        return proto

    def _start(self, derivative: Derivative, weights: Weights) -> None:
        """Open the sessions of both graphs."""
        model = self.model
        self.half = uses_half(derivative.forward)
        self.quantised = is_quantised(derivative.forward, model.image.name)
        self.output, self.saved = derivative.output, derivative.saved
        self.cotangent, self.gradient = derivative.cotangent, derivative.gradient
        self.extra, self.real = derivative.extra, derivative.real
        self.forward = model.new_session(derivative.forward, weights)
        self.backward = model.new_session(derivative.backward, weights)

    def __call__(self, masked: MaskedImages, passes: PassCounter) -> _MaskedGraph:
        """Return the function from masks [N, 1, h, w] to the raw outputs of N images."""
        return _MaskedGraph(self, masked, passes)


class _MaskedGraph:
    """The model as a function of masks: a `MaskedModel`.

    Buffers are reused, also for other images, once no gradient can be requested from them. A step
    therefore allocates nothing, and sequential steps need the memory of one.
    """

    def __init__(
        self,
        source: ExactGradient,
        masked: MaskedImages,
        passes: PassCounter,
        free: dict[Shape, list[_Buffers]] | None = None,
    ) -> None:
        self.source, self.passes, self.masked = source, passes, masked
        self._free: dict[Shape, list[_Buffers]] = {} if free is None else free

    def take(self, rows: Sequence[int] | npt.NDArray[Any]) -> _MaskedGraph:
        """Return the function for a subset of the images, with the same buffers."""
        return _MaskedGraph(self.source, self.masked.take(rows), self.passes, self._free)

    def forward(self, masks: Floats) -> tuple[Raw, _Lease]:
        """Return the outputs, [N, ...], of masks [N, 1, h, w], and their buffers."""
        filled = np.ascontiguousarray(self.source.model.filled(masks))
        free = self._free.setdefault(filled.shape, [])
        raw, lease = self._again(filled, free) or self._anew(filled, free)
        # Copies, because the memory is reused.
        return {name: value[: len(masks)].copy() for name, value in raw.items()}, lease

    def differentiated(self, saved: _Lease) -> Raw | None:
        """Return the outputs of a quantised model's float counterpart, rounded as the model's."""
        return saved.buffers.reals() if self.source.real else None

    def backward(self, saved: _Lease, cotangents: Mapping[str, Floats]) -> Floats:
        """Return the masks' cotangent, float32 [N, 1, h, w], from those of the outputs."""
        each = [cotangents[name] for name in self.source.outputs]
        if len(each) > 1:
            each = [np.concatenate([rows.reshape(len(rows), -1) for rows in each], axis=1)]
        return saved.buffers.backward(each[0])

    def class_activation(self, saved: _Lease) -> Floats | None:
        """Return the class activation of the last `backward`, [N, 2, r, c], if available."""
        return saved.buffers.class_activation

    def given(self, masks: Shape) -> dict[str, npt.NDArray[np.float32]]:
        """Return all inputs besides masks of that shape, repeating the last image as needed."""
        model, count = self.source.model, masks[0]
        rows = np.minimum(np.arange(count), len(self.masked) - 1)
        given = self.source.names.constants(self.masked.take(rows), (masks[2], masks[3]))
        return given | model.extra_feed(count)

    def _again(
        self, masks: npt.NDArray[np.float32], free: list[_Buffers]
    ) -> tuple[Raw, _Lease] | None:
        """Run in free buffers; None if there are none, or they do not fit."""
        try:
            lease = _Lease(free.pop(), free)
        except IndexError:  # none, or another thread was faster
            return None
        try:
            lease.buffers.show(self, masks.shape)
            return lease.buffers.forward(masks), lease
        except ModelError:  # an activation's shape depends on values; other errors will recur
            lease.free = []
            return None

    def _anew(self, masks: npt.NDArray[np.float32], free: list[_Buffers]) -> tuple[Raw, _Lease]:
        """Run in new buffers."""
        lease = _Lease(_Buffers(self, masks.shape), free)
        return lease.buffers.forward(masks), lease


class _Lease:
    """Buffers in use, freed when the last reference to the lease is dropped."""

    def __init__(self, buffers: _Buffers, free: list[_Buffers]) -> None:
        self.buffers, self.free = buffers, free

    def __del__(self) -> None:
        self.free.append(self.buffers)


class _Buffers:
    """The inputs and outputs of both sessions, bound to memory for masks of one shape."""

    def __init__(self, graph: _MaskedGraph, shape: Shape) -> None:
        source = graph.source
        self._source, self._passes = source, graph.passes
        self._what = f"the gradient graph of {source.model.label}"
        self._shown: MaskedImages | None = None
        self._forward = source.forward.io_binding()
        self._backward = source.backward.io_binding()
        self._cotangent_is_needed = source.cotangent in _inputs(source.backward)
        self._outputs: dict[str, Any] = {}
        self._results: list[Any] = []
        place = _place(source.model)
        self.show(graph, shape)
        for name in dict.fromkeys((source.output, *source.outputs)):
            self._forward.bind_output(name, "cpu")
        for name in source.saved:
            self._forward.bind_output(name, *place)
        self.class_activation: Floats | None = None
        for name in filter(None, (source.gradient, source.extra)):
            self._backward.bind_output(name, "cpu")

    def show(self, graph: _MaskedGraph, shape: Shape) -> None:
        """Bind the images of a graph, for masks of that shape."""
        if self._shown is graph.masked:
            return
        OrtValue = import_onnxruntime().OrtValue  # noqa: N806
        place, given = _place(self._source.model), graph.given(shape)
        # Referenced, because on the CPU they alias the arrays, which a binding may not keep alive.
        self._given = [
            (name, given[name], OrtValue.ortvalue_from_numpy(given[name], *place))
            for name in _inputs(self._source.forward).intersection(given)
        ]
        for name, _, value in self._given:
            self._forward.bind_ortvalue_input(name, value)
        self._shown = graph.masked

    def forward(self, masks: npt.NDArray[np.float32]) -> Raw:
        """Return the raw outputs [N, ...], valid until the next call."""
        self._forward.bind_cpu_input(self._source.names.mask, masks)
        run_bound(self._source.forward, self._forward, self._what)
        passes = 2 if self._source.quantised else 1  # the deployed model and its float counterpart
        self._passes.count_forward(passes * len(masks))
        if not self._outputs:  # their addresses are fixed from the first run on
            source, values = self._source, self._forward.get_outputs()
            names = dict.fromkeys((source.output, *source.outputs, *source.saved))
            self._outputs = dict(zip(names, values, strict=True))
            for name in _inputs(source.backward).intersection(source.saved):
                self._backward.bind_ortvalue_input(name, self._outputs[name])
        return {name: self._outputs[name].numpy() for name in self._source.outputs}

    def reals(self) -> Raw:
        """Return the float counterparts of the outputs after a run, in the outputs' dtypes.

        The counterpart of an integer output is in its units, and is rounded like it.
        """
        outputs = {name: self._outputs[name].numpy() for name in self._source.outputs}
        rows = self._outputs[self._source.real].numpy()
        rows = rows.reshape(len(rows), -1)
        ends = np.cumsum([each[0].size for each in outputs.values()])[:-1]
        parts = zip(outputs.items(), np.split(rows, ends, axis=1), strict=True)
        return {
            name: _as_type(part.reshape(each.shape), each.dtype) for (name, each), part in parts
        }

    def backward(self, cotangent: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return the masks' cotangent [N, 1, h, w] from the output's [N, ...]."""
        filled, scale = self._whole(cotangent)
        if self._cotangent_is_needed:
            self._backward.bind_cpu_input(self._source.cotangent, filled)
        run_bound(self._source.backward, self._backward, self._what)
        self._passes.count_backward(len(filled))
        if not self._results:
            self._results = self._backward.get_outputs()
        rows, mix = len(cotangent), self._source.model.batch_mixes is not False
        gradient, *extra = (_own(each.numpy(), rows, mix) * scale for each in self._results)
        self.class_activation = extra[0] if extra else None
        return np.asarray(gradient)

    def _whole(self, cotangent: npt.NDArray[np.float32]) -> tuple[npt.NDArray[Any], np.float32]:
        """Return the cotangent for the whole batch in the output's dtype, and its divisor."""
        raw = self._outputs[self._source.output].numpy()
        scale = np.float32(power_of_two(cotangent, half=self._source.half))
        if scale == 1 and len(cotangent) == len(raw) and raw.dtype == np.float32:
            return np.ascontiguousarray(cotangent), scale
        dtype = raw.dtype if raw.dtype.kind == "f" else np.float32
        filled = np.zeros(raw.shape, dtype)
        filled[: len(cotangent)] = cotangent / scale
        return filled, scale


def _built(
    model: DeployedModel,
    outputs: tuple[str, ...],
    proto: onnx.ModelProto,
    names: Names,
    size: tuple[int, int] | None,
) -> Derivative:
    """Return both graphs without the weights of `proto`; masking is inserted into it in place."""
    known = {tensor.name for tensor in proto.graph.initializer}
    insert_masked_images(proto, model.image, names)
    output = outputs[0] if len(outputs) == 1 else _joined(proto.graph, outputs)
    features = deep_features(model, outputs, size) if size else ()
    derivative = _differentiate(proto, names.mask, output, features)
    if len(outputs) > 1:
        for name in outputs:
            derivative.forward.graph.output.append(onnx.ValueInfoProto(name=name))
    take_weights(derivative.forward, known)
    take_weights(derivative.backward, known)
    return derivative


def _keep(
    cache: GradientCache, derivative: Derivative, made_from: tuple[str, ...], model: DeployedModel
) -> None:
    """Cache a derivative, or warn once that it cannot be cached."""
    try:
        cache.store(derivative, *made_from)
    except ResultError as error:
        warning = f"the gradient is not cached: {error}, or set {VARIABLE}=off"
        if warning not in model.warnings:
            model.warnings.append(warning)


def _joined(graph: onnx.GraphProto, outputs: tuple[str, ...]) -> str:
    """Write all values of several tensors as one row per image; return its name."""
    head = Head(graph)
    return head.op("Concat", *map(head.rows, outputs), axis=1)


def _differentiate(
    model: onnx.ModelProto, mask: str, output: str, features: Sequence[SpatialTensor]
) -> Derivative:
    """Build both graphs; the error says what to use instead."""
    extra = class_activation_at(features) if features else None
    try:
        return differentiate(model, mask, output, extra)
    except GradientError as error:
        advice = "use a surrogate or gradient='forward-only'"
        raise type(error)(str(error), advice) from error


def _as_type(values: npt.NDArray[Any], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Return values in a dtype; for integers they are rounded and clipped to its range."""
    if np.dtype(dtype).kind in "iu":
        values = np.clip(np.rint(values), np.iinfo(dtype).min, np.iinfo(dtype).max)
    return np.asarray(values.astype(dtype))


def _own(values: Floats, rows: int, mix: bool) -> Floats:
    """Return the first rows as a copy, because the memory is reused.

    If images of a batch may interact, gradients of the copies that pad a call are added to the last
    row.
    """
    own = values[:rows].copy()
    if mix and len(values) > rows:
        own[-1] += values[rows:].sum(0)
    return own


def _inputs(session: onnxruntime.InferenceSession) -> set[str]:
    return {each.name for each in session.get_inputs()}


def _place(model: DeployedModel) -> tuple[str, int]:
    """Return the kind and index of the device on which the model runs."""
    provider = model.providers[0]
    options = model.session.get_provider_options().get(provider, {})
    device = _DEVICES.get(provider, "cpu")
    return device, 0 if device == "cpu" else int(options.get("device_id", 0))

"""A model split at an inner tensor: from the image to the tensor, and from there to the scores.

Used by methods that work on features. The second part is differentiated with respect to the tensor
and runs in the same ONNX Runtime; paths that bypass the tensor see the unmodified image.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from ibisa_onnx.autodiff import differentiate
from ibisa_onnx.autodiff.graph import Graph
from ibisa_onnx.autodiff.node import Node, in_order, prune
from ibisa_onnx.autodiff.types import TensorType, read_type
from ibisa_onnx.errors import GradientError, IbisaError, NonFiniteGradientError
from ibisa_onnx.gradients.base import power_of_two
from ibisa_onnx.gradients.precision import is_quantised
from ibisa_onnx.models.base import ImageModel, to_input
from ibisa_onnx.models.onnx_graph import TRANSPARENT, cut, drop_unread_inputs, producer_of
from ibisa_onnx.models.onnx_session import DeployedModel
from ibisa_onnx.models.ort_messages import essence
from ibisa_onnx.models.passes import PassCounter
from ibisa_onnx.models.running import run
from ibisa_onnx.models.weights import read_missing, take_weights

Array = npt.NDArray[Any]

_FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE})
_NO_GRADIENT = frozenset({TensorProto.INT64, TensorProto.BOOL})
_MOST_TOGETHER = 16  # maps; no pyramid has more levels, and wide graphs have far more tensors
_POOLS = frozenset({"MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool"})
_PLANES = _POOLS | {"Conv", "ConvTranspose", "FusedConv"}
"""Operators whose output is [N, C, h, w] by definition."""
_REARRANGING = frozenset(
    {"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Gather", "GatherND", "Gemm", "Einsum"}
    | {"If", "Loop", "Scan"}
)
"""Operators after which the order of axes is unknown."""


@dataclass(frozen=True)
class SpatialTensor:
    """A float tensor [N, C, h, w] on a path from the image to the scores.

    `operator` is the operator that computes it, ignoring those that merely pass it on; `bottleneck`
    is true if all paths go through it; `depth` is the fraction of layers before it, 0 to 1.
    """

    name: str
    channels: int
    height: int
    width: int
    operator: str
    bottleneck: bool
    depth: float

    @property
    def side(self) -> int:
        """The longer of height and width."""
        return max(self.height, self.width)


def deployed(model: ImageModel, what: str) -> DeployedModel:
    """Return the model as one whose graph can be read; GradientError if there is none."""
    if not isinstance(model, DeployedModel):
        raise GradientError(f"{what} requires an ONNX graph, which a function does not have")
    if model.proto() is None:
        raise GradientError(f"{what} requires an ONNX graph: {model.file.why_no_graph}")
    return model


@dataclass(frozen=True)
class FeatureMaps:
    """All float tensors [N, C, h, w] between an image and an output, and their dependencies.

    Attributes
    ----------
    tensors
        The tensors, in topological order.
    cuts
        Sets of names that together cut all paths after some node, limited to sets of feature maps
        small enough for a pyramid.
    mixed
        Names of tensors that a later layer, pooling or sum reads. The others are scores per
        location rather than features.
    """

    tensors: tuple[SpatialTensor, ...]
    cuts: tuple[frozenset[str], ...]
    mixed: frozenset[str]


def feature_maps(model: DeployedModel, output: str, size: tuple[int, int]) -> FeatureMaps:
    """Return the feature maps between an image and an output.

    Having four axes is not sufficient: attention tensors have four as well. The order of the
    image's axes is therefore tracked through the graph. `size` is the image's height and width.

    Raises
    ------
    GradientError
        The graph cannot be read.
    """
    proto = _for_image(model, size)
    own = {name for node in proto.graph.node for name in node.output}
    declared = {each.name: read_type(each) for each in proto.graph.value_info}
    makers: dict[str, str] = {}
    layouts, found = {model.image.name: str(model.image.layout)}, []
    graph = _read(proto, output)
    cuts = _cuts(graph, model.image.name, output)
    bottlenecks = {name for cut in cuts if len(cut) == 1 for name in cut}
    layers, done = max(1, sum(_is_layer(node) for node in graph.nodes)), 0
    for node in graph.nodes:
        done += _is_layer(node)
        layout = _layout(node, layouts)
        if layout is None:
            continue
        handed_on = node.op_type in TRANSPARENT - {"Transpose"} and node.input(0) in makers
        maker = makers[node.input(0)] if handed_on else node.op_type
        for name in node.outputs:
            layouts[name], makers[name] = layout, maker
            kind = graph.type(name)
            sides = _plane(kind if kind.dims else declared.get(name, kind))
            if sides and layout == "NCHW" and name in own:
                found.append(SpatialTensor(name, *sides, maker, name in bottlenecks, done / layers))
    maps = {each.name for each in found}
    whole = tuple(cut for cut in cuts if cut <= maps)
    return FeatureMaps(tuple(found), whole, _mixed(graph) & maps)


def spatial_tensors(
    model: DeployedModel, output: str, size: tuple[int, int]
) -> tuple[SpatialTensor, ...]:
    """Return the tensors of `feature_maps` alone."""
    return feature_maps(model, output, size).tensors


def _is_layer(node: Node) -> bool:
    """Return whether a node mixes channels by weights."""
    return node.op_type == "Gemm" or any(each in node.op_type for each in ("Conv", "MatMul"))


def _cuts(graph: Graph, image: str, output: str) -> list[frozenset[str]]:
    """Return the sets of tensors that cut all paths from the image to the output.

    Nodes are in topological order, so after each node the cut is the set of tensors that depend on
    the image and are still needed. Shapes and conditions do not count. Sets of more than
    `_MOST_TOGETHER` are omitted.
    """
    passing = [
        (place, node, made)
        for place, node in enumerate(graph.nodes)
        if (made := {it for it in node.outputs if graph.type(it).elem not in _NO_GRADIENT})
    ]
    last = {name: place for place, node, _ in passing for name in node.uses}
    last[output] = len(graph.nodes)
    needed, found = {image}, []
    for place, node, made in passing:
        if needed.isdisjoint(node.uses):
            continue
        needed |= made
        needed -= {each for each in (*node.uses, *made) if last.get(each, -1) <= place}
        if 0 < len(needed) <= _MOST_TOGETHER:
            found.append(frozenset(needed))
    return found


def _mixed(graph: Graph) -> frozenset[str]:
    """Return the names of tensors that a layer, pooling or sum reads, directly or indirectly."""
    found: set[str] = set()
    for node in reversed(graph.nodes):
        sums = node.op_type in _POOLS or node.op_type.startswith("Reduce")
        if sums or _is_layer(node) or found.intersection(node.outputs):
            found.update(node.uses)
    return frozenset(found)


def _read(proto: onnx.ModelProto, output: str) -> Graph:
    try:
        return Graph(proto, output, weights=False)
    except IbisaError as error:
        raise GradientError(str(error)) from error
    except Exception as error:
        raise GradientError(f"shape inference failed ({essence(error)})") from error


def _plane(kind: TensorType) -> tuple[int, int, int] | None:
    """Return channels, height and width of float maps with more than one location, if known."""
    sides = [side for side in (kind.dims or ())[1:] if isinstance(side, int)]
    if kind.elem not in _FLOATS or len(kind.dims or ()) != 4 or len(sides) != 3:
        return None
    channels, height, width = sides
    return (channels, height, width) if min(height, width) > 1 else None


def _layout(node: Node, layouts: Mapping[str, str]) -> str | None:
    """Return the order of the axes of a node's output, given those of its inputs.

    Empty if it is unknown; None if the node does not depend on the image.
    """
    given = [layouts[name] for name in node.uses if name in layouts]
    known = next(filter(None, given), "")
    if not given:
        return None
    if node.op_type in _PLANES:
        return "NCHW"
    if node.op_type in _REARRANGING or "Attention" in node.op_type:
        return ""
    if node.op_type == "Transpose":
        order = node.attribute("perm", (3, 2, 1, 0))
        return "".join(known[axis] for axis in order) if known and len(order) == 4 else ""
    if "MatMul" in node.op_type:  # with weights on the right it mixes only the last axis
        weighs = node.input(0) in layouts and len(given) == 1
        return known if weighs and known.endswith("C") else ""
    return known


def last_spatial(tensors: Sequence[SpatialTensor]) -> SpatialTensor | None:
    """Return the last tensor before any final pooling; None if there are no tensors."""
    fitting = list(tensors)
    while len(fitting) > 1 and fitting[-1].operator in _POOLS:
        fitting.pop()
    return fitting[-1] if fitting else None


def last_of_side(tensors: Sequence[SpatialTensor], side: float) -> SpatialTensor | None:
    """Return the last of the tensors whose longer side is closest to `side`, as a ratio."""
    if not tensors:
        return None
    off = [abs(math.log(each.side / side)) for each in tensors]
    return [each for each, how in zip(tensors, off, strict=True) if how == min(off)][-1]


def before_softmax(model: DeployedModel, output: str) -> str:
    """Return the input of the softmax that computes the output; the output itself if none does."""
    proto = model.proto()
    assert proto is not None
    maker = producer_of(output, proto.graph)
    by_softmax = maker is not None and maker.op_type in ("Softmax", "LogSoftmax")
    return str(maker.input[0]) if maker is not None and by_softmax else output


class SplitModel:
    """A model split at a tensor, whose value can be replaced.

    Parameters
    ----------
    model
        The model. A run from the tensor to the output counts as a full pass (two for an 8-bit
        model, whose float counterpart runs as well); the run from the image to the tensor is not
        counted.
    tensor
        Name of the float tensor to split at.
    output
        Name of the tensor to differentiate, an output or any other.

    Raises
    ------
    GradientError
        There is no such tensor, or (UnsupportedOperatorError) a later operator has no rule.
    """

    def __init__(self, model: DeployedModel, tensor: str, output: str) -> None:
        proto = model.proto()
        if proto is None:
            raise GradientError(model.file.why_no_graph)
        if not any(tensor in node.output for node in proto.graph.node):
            raise GradientError(f"the model has no inner tensor {tensor!r}")
        self.model, self.tensor, self.output = model, tensor, output
        self._what = f"the part of {model.label} after {tensor!r}"
        self._opened: tuple[Any, Any] | None = None
        self._runs = 1

    @cached_property
    def _head(self) -> Any:
        """The session from the image to the tensor."""
        proto = self.model.proto()
        assert proto is not None
        del proto.graph.output[:]
        proto.graph.output.append(onnx.ValueInfoProto(name=self.tensor))
        nodes = in_order([Node.read(each, {}) for each in proto.graph.node])
        needed = [node.proto for node in prune(nodes, [self.tensor])]
        del proto.graph.node[:]
        proto.graph.node.extend(needed)
        return self.model.new_session(proto)

    def features(self, image: npt.NDArray[np.float32]) -> Array:
        """Return the tensor, [1, C, h, w], for one image [1, C, H, W] in model space."""
        images = np.repeat(image, self._batch or 1, axis=0)
        feed = self._feed(self._head, images)
        return _one(run(self._head, [self.tensor], feed, self.model.label))[:1]

    def forward(
        self, image: npt.NDArray[np.float32], features: Array, passes: PassCounter
    ) -> tuple[Array, Any]:
        """Return the output's raw values for features [N, ...], and state for `backward`.

        Paths that bypass the tensor see `image`.
        """
        derivative, (session, _) = self._sessions(features)
        names, raws, saved = [derivative.output, *derivative.saved], [], []
        for block in self._blocks(features):
            feed = self._feed(session, np.repeat(image, len(block), axis=0))
            feed[self.tensor] = _cast(block, session, self.tensor)
            raw, *rest = run(session, names, feed, self._what)
            passes.count_forward(self._runs * len(block))
            raws.append(raw)
            saved.append(dict(zip(derivative.saved, rest, strict=True)))
        return np.concatenate(raws)[: len(features)], saved

    def backward(
        self, saved: Any, cotangent: Array, passes: PassCounter
    ) -> npt.NDArray[np.float32]:
        """Return the cotangent of the features, [N, ...], from the output's, in its raw shape.

        Raises
        ------
        NonFiniteGradientError
            The gradient is NaN or infinite.
        """
        assert self._opened is not None
        derivative, (_, session) = self._opened
        names, gradients = [each.name for each in session.get_inputs()], []
        scale = np.float32(power_of_two(cotangent, half=True))
        for activations, block in zip(saved, self._blocks(cotangent / scale), strict=True):
            block = _cast(block, session, derivative.cotangent)
            given = {**activations, derivative.cotangent: block}
            feed = {name: given[name] for name in names}
            gradients.append(_one(run(session, [derivative.gradient], feed, self._what)))
            passes.count_backward(len(block))
        gradient = np.concatenate(gradients)[: len(cotangent)].astype(np.float32) * scale
        if not np.isfinite(gradient).all():
            raise NonFiniteGradientError(
                f"the gradient at {self.tensor} is NaN or infinite on this input; "
                "choose another tensor"
            )
        return gradient

    @property
    def _batch(self) -> int | None:
        """Images per call if the model's batch size is fixed, else None."""
        return self.model.image.batch or (1 if self.model.max_batch == 1 else None)

    def _blocks(self, values: Array) -> Iterator[Array]:
        """Yield all values at once, or in blocks of a fixed batch, the last one padded."""
        size = self._batch or len(values)
        for begin in range(0, len(values), size):
            block = values[begin : begin + size]
            yield np.concatenate([block, np.repeat(block[-1:], size - len(block), axis=0)])

    def _sessions(self, features: Array) -> tuple[Any, Any]:
        """Build both graphs of the second part when the tensor's shape is known."""
        if self._opened is None:
            proto = self.model.proto()
            assert proto is not None
            known = {each.name for each in proto.graph.initializer}
            kind = helper.np_dtype_to_tensor_dtype(_dtype(self._head.get_outputs()[0].type))
            shape = [self._batch or "ibisa_batch", *features.shape[1:]]
            cut(proto.graph, helper.make_tensor_value_info(self.tensor, kind, shape))
            try:
                derivative = differentiate(proto, self.tensor, self.output)
            except IbisaError as error:
                raise type(error)(f"{error}; choose another tensor") from error
            graphs = (derivative.forward, derivative.backward)
            for graph in graphs:
                take_weights(graph, known)
                drop_unread_inputs(graph)  # OpenVINO confuses the others with them
            weights = read_missing(proto, *graphs)
            sessions = tuple(self.model.new_session(graph, weights) for graph in graphs)
            self._runs = 2 if is_quantised(derivative.forward, self.tensor) else 1
            self._opened = derivative, sessions
        return self._opened

    def _feed(self, session: Any, images: npt.NDArray[np.float32]) -> dict[str, Array]:
        """Return the values of the model's own inputs that a session has."""
        image = self.model.image
        feed = {image.name: to_input(images, image), **self.model.extra_feed(len(images))}
        needed = {each.name for each in session.get_inputs()}
        return {name: value for name, value in feed.items() if name in needed}


def _for_image(model: DeployedModel, size: tuple[int, int]) -> onnx.ModelProto:
    """Return the graph with its image input declared at that size."""
    proto, image = model.proto(), model.image
    if proto is None:
        raise GradientError(model.file.why_no_graph)
    one = np.zeros((1, image.channels, *size), np.float32)
    sides = (image.batch or 1, *to_input(one, image).shape[1:])
    for each in proto.graph.input:
        if each.name == image.name:
            for axis, side in zip(each.type.tensor_type.shape.dim, sides, strict=True):
                axis.dim_value = side
    return proto


def _cast(values: Array, session: Any, name: str) -> Array:
    """Return values in the dtype of a session's input."""
    kinds = {each.name: each.type for each in session.get_inputs()}
    return values.astype(_dtype(kinds.get(name, "")), copy=False)


def _dtype(kind: str) -> np.dtype[Any]:
    """Return the NumPy dtype of ONNX Runtime's name for a float type."""
    return np.dtype(
        {"tensor(float16)": "float16", "tensor(double)": "float64"}.get(kind, "float32")
    )


def _one(values: Sequence[Any]) -> Array:
    (value,) = values
    return np.asarray(value)

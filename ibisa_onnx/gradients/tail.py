"""A model cut open at a tensor inside it: from the image to there, and from there to the scores.

Methods that look at features ask for that. The tail is differentiated with respect to the tensor,
and run by the same ONNX Runtime; paths around the tensor keep the image as it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, shape_inference

from ibisa_onnx.autodiff import differentiate
from ibisa_onnx.errors import GradientError, IbisaError, ModelError
from ibisa_onnx.model.files import essence
from ibisa_onnx.model.image_model import ImageModel, to_input
from ibisa_onnx.model.session import DeployedModel
from ibisa_onnx.model.weights import missing_weights, read_weights, take_weights

Array = npt.NDArray[Any]

_FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE})
_POOLS = frozenset({"MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool"})
_TRANSPARENT = frozenset(
    {"Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Dropout", "Cast"}
    | {"QuantizeLinear", "DequantizeLinear"}
)


@dataclass(frozen=True)
class SpatialTensor:
    """A float tensor [N, C, h, w] on the way from the image to the scores.

    `operator` is what makes it.
    """

    name: str
    channels: int
    height: int
    width: int
    operator: str


def deployed(model: ImageModel, what: str) -> DeployedModel:
    """Return the model as one whose graph can be read; GradientError where there is none."""
    if not isinstance(model, DeployedModel):
        raise GradientError(f"{what} looks inside a model, and a function has no graph")
    if model.proto() is None:
        raise GradientError(f"{what} looks inside a model: {model.file.why_no_graph}")
    return model


def spatial_tensors(
    model: DeployedModel, output: str, size: tuple[int, int]
) -> tuple[SpatialTensor, ...]:
    """Return all float tensors [N, C, h, w] between an image and an output, in order.

    `size` is the image's height and width.

    Raises
    ------
    GradientError
        The graph cannot be read.
    """
    graph = _inferred(model, size).graph
    after, wanted = {model.image.name}, {output}
    for node in graph.node:
        if after.intersection(node.input):
            after.update(node.output)
    for node in reversed(graph.node):
        if wanted.intersection(node.output):
            wanted.update(node.input)
    producers = {name: node for node in graph.node for name in node.output}
    found = {}
    for value in graph.value_info:
        kind = value.type.tensor_type
        sides = [axis.dim_value for axis in kind.shape.dim]
        if value.name not in after & wanted or value.name not in producers:
            continue
        if kind.elem_type in _FLOATS and len(sides) == 4 and min(sides[2:]) > 1:
            operator = producers[value.name].op_type
            found[value.name] = SpatialTensor(value.name, sides[1], sides[2], sides[3], operator)
    return tuple(found[name] for node in graph.node for name in node.output if name in found)


def last_spatial(tensors: Sequence[SpatialTensor]) -> SpatialTensor | None:
    """Return the last tensor, or the one before it is pooled; None where there is none."""
    fitting = list(tensors)
    while len(fitting) > 1 and fitting[-1].operator in _POOLS:
        fitting.pop()
    return fitting[-1] if fitting else None


def last_of_side(tensors: Sequence[SpatialTensor], side: float) -> SpatialTensor | None:
    """Return the last of the tensors whose longer side is nearest to that, as a ratio."""
    if not tensors:
        return None
    off = [abs(math.log(max(each.height, each.width) / side)) for each in tensors]
    return [each for each, how in zip(tensors, off, strict=True) if how == min(off)][-1]


def before_softmax(model: DeployedModel, output: str) -> str:
    """Return the tensor that a softmax makes the output of; the output's own name if none does."""
    proto = model.proto()
    assert proto is not None
    producers = {name: node for node in proto.graph.node for name in node.output}
    name = output
    while name in producers:
        node = producers[name]
        if node.op_type in ("Softmax", "LogSoftmax"):
            return str(node.input[0])
        if node.op_type not in _TRANSPARENT:
            break
        name = node.input[0]
    return output


class Tail:
    """A model cut open at a tensor.

    Parameters
    ----------
    model
        The model; its passes are counted there. A run through the tail counts as a whole pass, the
        run to the tensor that came before as none.
    tensor
        Where it is cut: the name of a float tensor.
    output
        What is differentiated: an output, or any tensor.

    Raises
    ------
    GradientError
        There is no such tensor, or (UnsupportedOperatorError) an operator behind it has no rule.
    """

    def __init__(self, model: DeployedModel, tensor: str, output: str) -> None:
        proto = model.proto()
        if proto is None:
            raise GradientError(model.file.why_no_graph)
        if not any(tensor in node.output for node in proto.graph.node):
            raise GradientError(f"the model has no tensor {tensor!r} inside")
        self.model, self.tensor, self.output = model, tensor, output
        self._opened: tuple[Any, Any] | None = None

    @cached_property
    def _head(self) -> Any:
        """The session from the image to the tensor."""
        proto = self.model.proto()
        assert proto is not None
        del proto.graph.output[:]
        proto.graph.output.append(onnx.ValueInfoProto(name=self.tensor))
        _keep_what(proto.graph, {self.tensor})
        return self.model.new_session(proto)

    def features(self, image: npt.NDArray[np.float32]) -> Array:
        """Return the tensor, [1, C, h, w], for one image [1, C, H, W] in model space."""
        images = np.repeat(image, self._batch or 1, axis=0)
        return _one(_run(self._head, [self.tensor], self._feed(self._head, images)))[:1]

    def forward(self, image: npt.NDArray[np.float32], features: Array) -> tuple[Array, Any]:
        """Return the output's raw values for features [N, ...] put in, and what `backward` needs.

        The image is what paths around the tensor see.
        """
        derivative, (session, _) = self._sessions(features)
        names, raws, saved = [derivative.output, *derivative.saved], [], []
        for block in self._blocks(features):
            feed = self._feed(session, np.repeat(image, len(block), axis=0))
            raw, *rest = _run(session, names, {**feed, self.tensor: block})
            self.model.passes.count_forward(len(block))
            raws.append(raw)
            saved.append(dict(zip(derivative.saved, rest, strict=True)))
        return np.concatenate(raws)[: len(features)], saved

    def backward(self, saved: Any, cotangent: Array) -> Array:
        """Return the cotangent of the features, [N, ...], from the output's, in its raw shape."""
        assert self._opened is not None
        derivative, (_, session) = self._opened
        names, gradients = [each.name for each in session.get_inputs()], []
        for activations, block in zip(saved, self._blocks(cotangent), strict=True):
            given = {**activations, derivative.cotangent: block}
            feed = {name: given[name] for name in names}
            gradients.append(_one(_run(session, [derivative.gradient], feed)))
            self.model.passes.count_backward(len(block))
        return np.concatenate(gradients)[: len(cotangent)]

    @property
    def _batch(self) -> int | None:
        """Images in a call, where the model takes no other number."""
        return 1 if self.model.max_batch == 1 else self.model.image.batch

    def _blocks(self, values: Array) -> Iterator[Array]:
        """Yield all at once, or as many as a fixed batch takes, the last filled up."""
        size = self._batch or len(values)
        for begin in range(0, len(values), size):
            block = values[begin : begin + size]
            yield np.concatenate([block, np.repeat(block[-1:], size - len(block), axis=0)])

    def _sessions(self, features: Array) -> tuple[Any, Any]:
        """Build both graphs of the tail once the tensor's shape is known."""
        if self._opened is None:
            proto = self.model.proto()
            assert proto is not None
            known = {each.name for each in proto.graph.initializer}
            _cut(proto.graph, self.tensor, features, self._batch)
            try:
                derivative = differentiate(proto, self.tensor, self.output)
            except IbisaError as error:
                raise type(error)(f"{error}; choose another tensor") from error
            graphs = (derivative.forward, derivative.backward)
            for graph in graphs:
                take_weights(graph, known)
            weights = read_weights(proto, set().union(*map(missing_weights, graphs)))
            sessions = tuple(self.model.new_session(graph, weights) for graph in graphs)
            self._opened = derivative, sessions
        return self._opened

    def _feed(self, session: Any, images: npt.NDArray[np.float32]) -> dict[str, Array]:
        """Return the values of those of the model's own inputs that a session takes."""
        image = self.model.image
        feed = {image.name: to_input(images, image), **self.model.extra_feed(len(images))}
        needed = {each.name for each in session.get_inputs()}
        return {name: value for name, value in feed.items() if name in needed}


def _inferred(model: DeployedModel, size: tuple[int, int]) -> onnx.ModelProto:
    """Return the graph with the shapes of its tensors for one image."""
    proto, image = model.proto(), model.image
    assert proto is not None
    one = np.zeros((1, image.channels, *size), np.float32)
    sides = (image.batch or 1, *to_input(one, image).shape[1:])
    for each in proto.graph.input:
        if each.name == image.name:
            for axis, side in zip(each.type.tensor_type.shape.dim, sides, strict=True):
                axis.dim_value = side
    del proto.graph.value_info[:]
    try:
        return shape_inference.infer_shapes(proto, data_prop=True)
    except Exception as error:
        raise GradientError(f"the graph's shapes cannot be told ({essence(error)})") from error


def _cut(graph: onnx.GraphProto, tensor: str, features: Array, batch: int | None) -> None:
    """Make a tensor an input, in place."""
    for node in graph.node:
        for place, name in enumerate(node.output):
            if name == tensor:
                node.output[place] = f"{tensor}/cut"
    kind = helper.np_dtype_to_tensor_dtype(features.dtype)
    shape = [batch or "ibisa_batch", *features.shape[1:]]
    graph.input.append(helper.make_tensor_value_info(tensor, kind, shape))
    for each in list(graph.output):
        if each.name == tensor:
            graph.output.remove(each)


def _keep_what(graph: onnx.GraphProto, wanted: set[str]) -> None:
    """Remove, in place, nodes that nothing wanted depends on."""
    kept = []
    for node in reversed(graph.node):
        if wanted.intersection(node.output):
            wanted |= set(_uses(node))
            kept.append(node)
    del graph.node[:]
    graph.node.extend(reversed(kept))


def _uses(node: onnx.NodeProto) -> Iterator[str]:
    """Yield what a node reads, those inside its subgraphs included."""
    yield from node.input
    for attribute in node.attribute:
        for graph in [attribute.g, *attribute.graphs]:
            for inner in graph.node:
                yield from _uses(inner)


def _run(session: Any, names: Sequence[str], feed: dict[str, Array]) -> Sequence[Any]:
    try:
        return list(session.run(list(names), feed))
    except Exception as error:
        raise ModelError(f"the tail of the model failed to run: {essence(error)}") from error


def _one(values: Sequence[Any]) -> Array:
    (value,) = values
    return np.asarray(value)

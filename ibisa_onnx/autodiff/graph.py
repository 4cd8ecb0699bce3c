"""A model's graph as read by the differentiation: nodes, types, constants and their values.

Weights are not copied: all analysis runs on a skeleton of the model in which large initializers are
only names with a type. Nothing here knows about derivatives.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import onnx
from onnx import helper, inliner, numpy_helper

from ibisa_onnx.autodiff.branches import inline_branches
from ibisa_onnx.autodiff.inference import infer_types
from ibisa_onnx.autodiff.node import (
    Node,
    check_arity,
    evaluate,
    in_order,
    inner_graphs,
    opsets_of,
    prune,
)
from ibisa_onnx.autodiff.types import Array, TensorType, read_type, value_info, with_open_sides
from ibisa_onnx.errors import ModelError, UnsupportedOperatorError
from ibisa_onnx.models.soundness import check_sound

# Shapes, axes, pads and scalars are smaller than this; weights need not be read.
_SMALL = 4096
_IN_PYTHON = "ai.onnx.contrib"  # the domain of onnxruntime-extensions
_MOST = 1 << 27  # elements of a constant that is evaluated
# Operators that may compute large tensors from small constants.
_GROWING = frozenset(
    {"Col2Im", "ConstantOfShape", "Expand", "EyeLike", "MaxUnpool", "OneHot", "Pad", "Range"}
    | {"Resize", "Tile", "Upsample", "CenterCropPad", "HammingWindow", "HannWindow"}
    | {"BlackmanWindow", "MelWeightMatrix", "Conv", "ConvTranspose", "ScatterND"}
)
RANDOM = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
    | {"Bernoulli", "Multinomial"}
)
"""Operators whose result differs in each run."""


class Graph:
    """The part of a model that one output depends on.

    Model-local functions and branches that are always taken are inlined; operators that the output
    does not depend on are pruned. Values of weights are read only through `value`, and never if
    `weights` is False.
    """

    def __init__(self, model: onnx.ModelProto, output: str, *, weights: bool = True) -> None:
        check_sound(model, "the model")  # functions may expand to any number of nodes
        if model.graph.sparse_initializer:
            name = model.graph.sparse_initializer[0].values.name
            raise UnsupportedOperatorError(f"the sparse initializer {name!r} is not supported")
        self.initializers = {i.name: i for i in model.graph.initializer}
        self.output = output
        self.model = model
        self._weights = weights
        inputs = (i for i in model.graph.input if i.name not in self.initializers)
        self.inputs = tuple(with_open_sides(inputs))
        self.outputs = tuple(with_open_sides(model.graph.output))
        skeleton = _skeleton(model, self.inputs, self.outputs)
        self.imports = list(skeleton.opset_import)
        self.opsets = opsets_of(self.imports)
        self._skeleton = skeleton
        check_arity(skeleton.graph.node, self.opsets)
        nodes = [Node.read(proto, self.opsets) for proto in skeleton.graph.node]
        if not any(output in node.outputs for node in nodes):
            names = ", ".join(o.name for o in self.outputs)
            raise ModelError(f"the model does not compute {output!r}; choose one of: {names}")
        self._settle(in_order(nodes))
        while inlined := inline_branches(self.nodes, self.value, self.opsets):
            self._settle(inlined)

    def extended(self, protos: Iterable[onnx.NodeProto], output: str) -> Graph:
        """Return the graph extended by nodes, up to an output of theirs."""
        graph = copy.copy(self)
        graph.output = output
        graph._settle([*self.nodes, *(Node.read(proto, self.opsets) for proto in protos)])
        return graph

    def _settle(self, nodes: Sequence[Node]) -> None:
        """Prune to the output, and infer types and constants."""
        self.nodes = prune(nodes, [self.output])
        self.producers = {name: node for node in self.nodes for name in node.outputs if name}
        self.types, self._values = infer_types(self._skeleton, self.nodes)
        self.constants = self._find_constants()

    def type(self, name: str) -> TensorType:
        """Element type and shape of a tensor, as far as they are known."""
        return self.types.get(name, TensorType())

    def __contains__(self, name: str) -> bool:
        return (
            name in self.producers
            or name in self.initializers
            or any(i.name == name for i in self.inputs)
        )

    def value(self, name: str) -> Array | None:
        """Return the value of a constant tensor; None if it is not constant or not in memory."""
        if name not in self.constants:
            return None
        if name not in self._values:
            self._values[name] = self._evaluate(name)
        return self._values[name]

    def _find_constants(self) -> set[str]:
        constants = {*self.initializers, *self._values}
        for node in self.nodes:
            if node.op_type not in RANDOM | {"Dropout"} and all(
                name in constants for name in node.uses
            ):
                constants.update(name for name in node.outputs if name)
        return constants

    def _evaluate(self, name: str) -> Array | None:
        if name in self.initializers:
            return self._read(self.initializers[name])
        node = self.producers[name]
        feeds = {used: self.value(used) for used in node.uses}
        if any(value is None for value in feeds.values()) or not self._is_bounded(node):
            return None
        results = evaluate(node, {k: v for k, v in feeds.items() if v is not None}, self.opsets)
        return results[node.outputs.index(name)]

    def _is_bounded(self, node: Node) -> bool:
        """Return whether evaluating a node of constants is bounded in memory and time."""
        shapes = [self.type(name).static for name in node.outputs if name]
        if any(shape is not None and math.prod(shape) > _MOST for shape in shapes):
            return False
        turns = any(True for _ in inner_graphs([node.proto]))
        return not turns and (None not in shapes or node.op_type not in _GROWING)

    def _read(self, tensor: onnx.TensorProto) -> Array | None:
        external = tensor.data_location == onnx.TensorProto.EXTERNAL
        if external or not (self._weights or _is_small(tensor)):
            return None
        return numpy_helper.to_array(tensor)


def _is_small(tensor: onnx.TensorProto) -> bool:
    return int(np.prod(tensor.dims, dtype=np.int64)) <= _SMALL


def _skeleton(
    model: onnx.ModelProto,
    inputs: Iterable[onnx.ValueInfoProto],
    outputs: Iterable[onnx.ValueInfoProto],
) -> onnx.ModelProto:
    """Return the model without the data of its weights, with model-local functions inlined."""
    skeleton = onnx.ModelProto(ir_version=max(model.ir_version, 4))
    skeleton.opset_import.extend(model.opset_import)
    skeleton.functions.extend(model.functions)
    skeleton.graph.name = model.graph.name
    skeleton.graph.node.extend(model.graph.node)
    skeleton.graph.output.extend(outputs)
    skeleton.graph.input.extend(inputs)
    for tensor in model.graph.initializer:
        if _is_small(tensor) and tensor.data_location != onnx.TensorProto.EXTERNAL:
            skeleton.graph.initializer.append(tensor)
        else:
            info = helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            skeleton.graph.input.append(info)
    skeleton.graph.value_info.extend(_declared(model))
    if not model.functions:
        return skeleton
    return inliner.inline_local_functions(skeleton, True)


def _declared(model: onnx.ModelProto) -> Iterator[onnx.ValueInfoProto]:
    """Yield element type and rank, as the file declares them, of what ONNX cannot infer.

    These are the outputs of custom operators. Their sides may be outdated, so they are dynamic.
    """
    custom = (node for node in model.graph.node if not _is_known(node.domain))
    outputs = {name for node in custom for name in node.output}
    for info in (*model.graph.value_info, *model.graph.output):
        kind = read_type(info) if info.name in outputs else TensorType()
        if kind.elem is not None and kind.dims is not None:
            yield value_info(info.name, TensorType(kind.elem, (None,) * len(kind.dims)))


def _is_known(domain: str) -> bool:
    """Return whether a domain is ONNX's or ONNX Runtime's own."""
    return not domain or (domain != _IN_PYTHON and domain.startswith(("ai.onnx", "com.microsoft")))

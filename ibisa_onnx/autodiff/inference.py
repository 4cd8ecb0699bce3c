"""Shape inference: ONNX's own, helped where a model computes shapes from shapes.

Older exporters write Shape, Gather, Concat, Reshape; the numbers on that way are followed here, as
far as they are known, and what they say of Reshape's and Expand's results is handed to ONNX.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper, shape_inference

from ibisa_onnx.autodiff.definitions import DEFINITIONS
from ibisa_onnx.autodiff.node import Node, evaluate, inner_graphs
from ibisa_onnx.autodiff.types import Array, Dimension, TensorType, read_type, value_info
from ibisa_onnx.errors import UnsupportedOperatorError

Types = dict[str, TensorType]
Vector = tuple[Dimension, ...]
"""A small integer tensor, flattened; None and symbols where a number is not known."""

_LONGEST = 64
_LONGEST_DATA = 4096


def infer_types(
    skeleton: onnx.ModelProto, nodes: Sequence[Node]
) -> tuple[Types, dict[str, Array | None]]:
    """Types of every tensor, and the values of shape computations that are known.

    Only the inputs' declared types are read: what the file says of the tensors in between may be
    older than those.
    """
    found: Types = {}
    known: dict[str, Array] = {}
    while True:
        types = _infer(skeleton, nodes, found, known)
        vectors = _follow(skeleton, nodes, types)
        more, values = dict(_shaped(nodes, types, vectors)), dict(_known(vectors, types))
        if more.keys() <= found.keys() and values.keys() <= known.keys():
            return types, dict(values)
        found |= more
        known |= values


def _infer(
    skeleton: onnx.ModelProto, nodes: Sequence[Node], found: Types, known: Mapping[str, Array]
) -> Types:
    """What ONNX infers when it is told what else was found; a known vector replaces its node."""
    model = onnx.ModelProto(ir_version=skeleton.ir_version)
    model.opset_import.extend(skeleton.opset_import)
    model.graph.name = "types"
    produced = {name for node in nodes for name in node.outputs} & known.keys()
    judged = {name for node in nodes if node.op_type in _MISJUDGED for name in node.outputs}
    given = judged & found.keys()
    kept = [
        node for node in nodes if not produced >= {*node.outputs} and node.outputs[0] not in given
    ]
    for place, node in enumerate(kept):
        model.graph.node.append(_with_constants(_plain(model, node, place), node.captured, known))
    model.graph.input.extend(value_info(name, found[name]) for name in sorted(given))
    values = [numpy_helper.from_array(known[name], name) for name in sorted(produced)]
    model.graph.initializer.extend(values)
    model.graph.input.extend(_without_long_vectors(skeleton.graph.input))
    model.graph.initializer.extend(skeleton.graph.initializer)
    model.graph.value_info.extend(value_info(name, kind) for name, kind in found.items())
    inferred = shape_inference.infer_shapes(model, data_prop=True).graph
    infos = [*inferred.input, *inferred.value_info, *skeleton.graph.input]
    types = {info.name: read_type(info) for info in infos}
    for tensor in [*values, *skeleton.graph.initializer]:
        types[tensor.name] = TensorType(tensor.data_type, tuple(tensor.dims))
    return types


def _with_constants(
    proto: onnx.NodeProto, captured: Iterable[str], known: Mapping[str, Array]
) -> onnx.NodeProto:
    """The node with the vectors that its inside captures put there, where ONNX looks for them."""
    vectors = [numpy_helper.from_array(known[name], name) for name in captured if name in known]
    if not vectors:
        return proto
    copy = onnx.NodeProto()
    copy.CopyFrom(proto)
    for graph in inner_graphs([copy]):
        graph.initializer.extend(vectors)
    return copy


def is_vector(kind: TensorType) -> bool:
    """Whether a tensor may be one that shapes are computed with."""
    integer = kind.elem in (onnx.TensorProto.INT64, onnx.TensorProto.INT32)
    return integer and kind.static is not None and math.prod(kind.static) <= _LONGEST


def _plain(model: onnx.ModelProto, node: Node, place: int) -> onnx.NodeProto:
    """The node itself, or if ONNX does not know it a call of its definition, put into the model."""
    if onnx.defs.has(node.op_type, node.opset, node.domain):
        return node.proto
    try:
        definition = DEFINITIONS.define(node)
    except UnsupportedOperatorError:
        return node.proto
    if definition is None:
        return node.proto
    function = definition.function
    function.name = f"{node.op_type}_{place}"
    if not model.functions:
        model.ir_version = max(model.ir_version, 8)
        model.opset_import.append(helper.make_opsetid(function.domain, 1))
    model.functions.append(function)
    outputs = [node.outputs[i] if i < len(node.outputs) else "" for i in definition.outputs]
    return helper.make_node(function.name, node.inputs, outputs, domain=function.domain)


def _without_long_vectors(
    inputs: Iterable[onnx.ValueInfoProto],
) -> Iterator[onnx.ValueInfoProto]:
    """Leave the length of long vectors open: ONNX would follow each of their values, in gigabytes.

    Whatever computes shapes is short.
    """
    for info in inputs:
        kind = read_type(info)
        if kind.static is not None and len(kind.static) == 1 and kind.static[0] > _LONGEST_DATA:
            yield value_info(info.name, TensorType(kind.elem, (None,)))
        else:
            yield info


def _known(vectors: Mapping[str, Vector], types: Types) -> Iterator[tuple[str, Array]]:
    for name, vector in vectors.items():
        kind = types.get(name, TensorType())
        numbers = [number for number in vector if isinstance(number, int)]
        if kind.elem is not None and kind.static is not None and len(numbers) == len(vector):
            dtype = helper.tensor_dtype_to_np_dtype(kind.elem)
            yield name, np.array(numbers, dtype).reshape(kind.static)


def _follow(skeleton: onnx.ModelProto, nodes: Sequence[Node], types: Types) -> dict[str, Vector]:
    """The integer vectors that shapes are computed with."""
    vectors: dict[str, Vector] = {}
    for tensor in skeleton.graph.initializer:
        if tensor.data_type in (onnx.TensorProto.INT64, onnx.TensorProto.INT32):
            _note(vectors, tensor.name, numpy_helper.to_array(tensor))
    for node in nodes:
        if node.op_type == "Constant":
            _note(vectors, node.outputs[0], evaluate(node, {}, {"": node.opset})[0])
        elif node.domain == "" and (vector := _vector(node, types, vectors)) is not None:
            vectors[node.outputs[0]] = vector
    return vectors


def _note(vectors: dict[str, Vector], name: str, value: Array) -> None:
    if value.dtype.kind == "i" and value.size <= _LONGEST:
        vectors[name] = tuple(value.reshape(-1).tolist())


def _vector(node: Node, types: Types, vectors: Mapping[str, Vector]) -> Vector | None:
    """What a node makes of the vectors it is given, or None if it does not compute with shapes."""
    if node.op_type in ("Shape", "Size"):
        return _measured(node, types.get(node.input(0), TensorType()))
    given = [vectors.get(name) for name in node.inputs]
    vectors_given = [vector for vector in given if vector is not None]
    if not given or len(vectors_given) < len(given):
        return None
    first, rest = vectors_given[0], vectors_given[1:]
    if node.op_type not in _FLAT and not all(_is_flat(types.get(x)) for x in node.inputs):
        return None
    if node.op_type == "ConstantOfShape" and len(first) != 1:
        return None
    if node.op_type in ("Range", "ConstantOfShape"):
        return _generated(node, [vector[0] if vector else None for vector in vectors_given])
    if node.op_type in ("Unsqueeze", "Squeeze", "Reshape", "Identity"):
        return first
    if node.op_type == "Cast":
        integer = node.attribute("to") in (onnx.TensorProto.INT64, onnx.TensorProto.INT32)
        return first if integer else None
    if node.op_type == "Concat":
        return sum(vectors_given, ())
    if node.op_type == "Gather":
        return _picked(first, rest[0])
    if node.op_type == "Slice":
        return _sliced(node, first, rest)
    if node.op_type == "Where":
        return _chosen(*vectors_given)
    if node.op_type in _ARITHMETIC and max(len(first), len(rest[0])) < _LONGEST:
        return _computed(node.op_type, first, rest[0])
    return None


# Operators that keep the order of the elements, whatever the rank.
_FLAT = frozenset({"Unsqueeze", "Squeeze", "Reshape", "Identity", "Cast"})


def _is_flat(kind: TensorType | None) -> bool:
    return kind is not None and kind.dims is not None and len(kind.dims) <= 1


def _measured(node: Node, source: TensorType) -> Vector | None:
    if source.dims is None:
        return None
    if node.op_type == "Shape":
        return source.dims[slice(node.attribute("start", 0), node.attribute("end"))]
    return (None if source.static is None else math.prod(source.static),)


def _picked(vector: Vector, places: Vector) -> Vector | None:
    """Gather; None where a place is not known, or beyond the vector."""
    reach = range(-len(vector), len(vector))
    known = [place for place in places if isinstance(place, int) and place in reach]
    return tuple(vector[place] for place in known) if len(known) == len(places) else None


def _generated(node: Node, numbers: Sequence[Dimension]) -> Vector | None:
    """Range, and ConstantOfShape of one side; None where they are too long to follow."""
    limits = [number for number in numbers if isinstance(number, int)]
    if len(limits) < len(numbers):
        return None
    if node.op_type == "Range":
        return tuple(range(*limits)) if len(range(*limits)) <= _LONGEST else None
    value = node.attribute("value")
    fill = numpy_helper.to_array(value) if value is not None else np.zeros(1, np.float32)
    if fill.dtype.kind != "i" or limits[0] > _LONGEST:
        return None
    return (int(fill.item()),) * limits[0]


def _chosen(condition: Vector, taken: Vector, other: Vector) -> Vector | None:
    """Where: as older exporters write an expansion that keeps some sides."""
    count = max(len(condition), len(taken), len(other))
    if {len(condition), len(taken), len(other)} - {1, count} or count == 0:
        return None
    c, a, b = (v * (count // len(v)) for v in (condition, taken, other))
    pairs = zip(c, a, b, strict=True)
    return tuple((x if which else y) if which is not None else None for which, x, y in pairs)


def _sliced(node: Node, vector: Vector, bounds: Sequence[Vector]) -> Vector | None:
    starts = node.attribute("starts") or (bounds[0] if bounds else ())
    ends = node.attribute("ends") or (bounds[1] if bounds else ())
    step = bounds[3][0] if len(bounds) > 3 else 1
    limits = [*starts, *ends, step]
    if len(limits) != 3 or not all(isinstance(limit, int) for limit in limits):
        return None
    taken = slice_range(len(vector), *limits)
    return tuple(vector[place] for place in taken)


def slice_range(side: int, start: int, end: int, step: int) -> range:
    """The positions that a Slice takes from an axis.

    As Python does, but that backwards a start before the first element is the first element.
    """
    return range(side)[max(start, -side) if step < 0 else start : end : step]


_ARITHMETIC: dict[str, Callable[[int, int], int | None]] = {
    "Add": lambda a, b: a + b,
    "Sub": lambda a, b: a - b,
    "Mul": lambda a, b: a * b,
    "Div": lambda a, b: abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1) if b else None,
    "Mod": lambda a, b: a % b if b else None,
    "Equal": lambda a, b: a == b,
    "Less": lambda a, b: a < b,
    "Greater": lambda a, b: a > b,
}


def _computed(op_type: str, a: Vector, b: Vector) -> Vector | None:
    count = max(len(a), len(b))
    if {len(a), len(b)} - {1, count}:
        return None
    pairs = zip(a * (count // len(a)), b * (count // len(b)), strict=True)
    function = _ARITHMETIC[op_type]
    numbers = ((x, y) if isinstance(x, int) and isinstance(y, int) else None for x, y in pairs)
    return tuple(None if pair is None else function(*pair) for pair in numbers)


def _shaped(
    nodes: Sequence[Node], types: Types, vectors: Mapping[str, Vector]
) -> Iterator[tuple[str, TensorType]]:
    """Results that ONNX leaves open: Reshape to a vector followed here, and a few operators."""
    for node in nodes:
        source, vector = types.get(node.input(0)), vectors.get(node.input(1))
        if node.op_type in _MISJUDGED and source is not None and source.dims:
            yield from _attended(node, source, types)
            continue
        if source is None or not node.outputs:
            continue
        known = types.get(node.outputs[0], TensorType()).dims
        if node.op_type == "Reshape" and vector is not None:
            dims = _reshaped(source, vector, node.attribute("allowzero", 0))
            if known is None or _fixed(dims) > _fixed(known):
                yield node.outputs[0], TensorType(source.elem, dims)
        elif known is None and node.op_type in _SHAPE_KEEPING:
            yield node.outputs[0], source
        elif known is None and _keeps_rank(node) and source.dims:
            open_sides = TensorType(source.elem, (None,) * len(source.dims))
            yield from ((output, open_sides) for output in node.outputs if output)


# Operators whose sides ONNX gets wrong where the inputs' are open.
_MISJUDGED = frozenset({"Attention"})


def _attended(node: Node, q: TensorType, types: Types) -> Iterator[tuple[str, TensorType]]:
    """Attention's result has the length and the batch of its queries; keys and scores are 4-D."""
    if all(types.get(name, TensorType()).static is not None for name in node.uses):
        return
    assert q.dims is not None
    yield node.outputs[0], TensorType(q.elem, (*q.dims[:-1], None))
    yield from ((name, TensorType(q.elem, (None,) * 4)) for name in node.outputs[1:] if name)


def _fixed(dims: Vector) -> int:
    """How many sides are numbers."""
    return sum(isinstance(side, int) for side in dims)


# Operators for which ONNX infers nothing though the result is like the first input.
_SHAPE_KEEPING = frozenset({"GroupNormalization"})


def _keeps_rank(node: Node) -> bool:
    if node.op_type.startswith("Reduce"):
        return bool(node.attribute("keepdims", 1))
    return node.op_type in ("Slice", "Split", "Tile", "Pad")


def _reshaped(source: TensorType, vector: Vector, allow_zero: int) -> Vector:
    """The sides a Reshape gives: 0 copies a side, -1 takes what is left."""
    dims = list(vector)
    for axis, side in enumerate(dims):
        if side == 0 and not allow_zero:
            known = source.dims is not None and axis < len(source.dims)
            dims[axis] = source.dims[axis] if known and source.dims else None
    rest = [side for side in dims if side != -1]
    if -1 in dims:
        numbers = [side for side in rest if isinstance(side, int)]
        whole = source.static is not None and len(numbers) == len(rest)
        total = math.prod(source.static or ())
        dims[dims.index(-1)] = total // max(math.prod(numbers), 1) if whole else None
    return tuple(dims)

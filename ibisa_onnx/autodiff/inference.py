"""Shape inference: ONNX's own, extended to models that compute shapes from shapes.

Exporters emit chains such as Shape, Gather, Div, Ceil, Concat, Pad. The known numbers along these
chains are computed here and passed to ONNX. Values computed from static dimensions are constant,
even if the batch is dynamic.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import reduce

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper, shape_inference

from ibisa_onnx.autodiff.definitions import DEFINITIONS
from ibisa_onnx.autodiff.node import Node, evaluate, inner_graphs
from ibisa_onnx.autodiff.types import Array, Dimension, TensorType, read_type, value_info
from ibisa_onnx.errors import UnsupportedOperatorError

Types = dict[str, TensorType]
Vector = tuple[Dimension | float, ...]
"""A small tensor, flattened; None or a symbol for each unknown number."""

_LONGEST = 64
_LONGEST_DATA = 4096
_INTEGERS = (onnx.TensorProto.INT64, onnx.TensorProto.INT32)
_KINDS = "ifb"
_NOT_INFERRED = (
    onnx.checker.ValidationError,
    onnx.defs.SchemaError,
    shape_inference.InferenceError,
)


def infer_types(
    skeleton: onnx.ModelProto, nodes: Sequence[Node]
) -> tuple[Types, dict[str, Array | None]]:
    """Return the types of all tensors, and the known values of shape computations.

    Of the types that the file declares, those of inputs are read, and the ranks of what ONNX cannot
    infer: other inner tensors' may be outdated.
    """
    found: Types = {}
    known: dict[str, Array] = {}
    while True:
        types = _infer(skeleton, nodes, found, known)
        vectors, settled = _follow(skeleton, nodes, types, known)
        more = settled | dict(_shaped(nodes, types, vectors))
        values = dict(_known(vectors, types))
        if more.keys() <= found.keys() and values.keys() <= known.keys():
            return types, dict(values)
        found |= more
        known |= values


def _infer(
    skeleton: onnx.ModelProto, nodes: Sequence[Node], found: Types, known: Mapping[str, Array]
) -> Types:
    """Run ONNX's inference with what else was found; a known vector replaces its node."""
    model = onnx.ModelProto(ir_version=skeleton.ir_version)
    model.opset_import.extend(skeleton.opset_import)
    model.graph.name = "types"
    produced = {name for node in nodes for name in node.outputs} & known.keys()
    judged = {name for node in nodes if node.op_type in _MISJUDGED for name in node.outputs}
    given = judged & found.keys()
    endless = _endless(nodes)
    kept = [
        node
        for node in nodes
        if not produced >= {*node.outputs} and not {*node.outputs} & (given | endless)
    ]
    plain = [_plain(model, node, place) for place, node in enumerate(kept)]
    for node, proto in zip(kept, plain, strict=True):
        model.graph.node.append(_with_constants(proto, node.captured, known))
    model.graph.input.extend(value_info(name, found[name]) for name in sorted(given))
    values = [numpy_helper.from_array(known[name], name) for name in sorted(produced)]
    model.graph.initializer.extend(values)
    model.graph.input.extend(_without_long_vectors(skeleton.graph.input))
    model.graph.initializer.extend(skeleton.graph.initializer)
    model.graph.value_info.extend(value_info(name, kind) for name, kind in found.items())
    opaque = {
        name
        for node, proto in zip(kept, plain, strict=True)
        if proto is node.proto and not onnx.defs.has(node.op_type, node.opset, node.domain)
        for name in node.outputs
    }
    model.graph.value_info.extend(
        info for info in skeleton.graph.value_info if info.name in opaque - found.keys()
    )
    inferred = shape_inference.infer_shapes(model, data_prop=True).graph
    infos = [*inferred.input, *inferred.value_info, *skeleton.graph.input]
    types = {info.name: read_type(info) for info in infos}
    for tensor in [*values, *skeleton.graph.initializer]:
        types[tensor.name] = TensorType(tensor.data_type, tuple(tensor.dims))
    return types


def _with_constants(
    proto: onnx.NodeProto, captured: Iterable[str], known: Mapping[str, Array]
) -> onnx.NodeProto:
    """Return the node with captured vectors copied into its subgraphs, where ONNX expects them."""
    vectors = [numpy_helper.from_array(known[name], name) for name in captured if name in known]
    if not vectors:
        return proto
    copy = onnx.NodeProto()
    copy.CopyFrom(proto)
    for graph in inner_graphs([copy]):
        graph.initializer.extend(vectors)
    return copy


def is_vector(kind: TensorType) -> bool:
    """Return whether a tensor may take part in shape computations."""
    return kind.elem in _INTEGERS and _is_short(kind)


def _is_short(kind: TensorType) -> bool:
    return kind.static is not None and math.prod(kind.static) <= _LONGEST


def _plain(model: onnx.ModelProto, node: Node, place: int) -> onnx.NodeProto:
    """Return the node, or, if unknown to ONNX, a call of its definition, added to the model."""
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
    """Declare the length of long vectors dynamic: ONNX would track all values, using gigabytes.

    Shape computations use short vectors only.
    """
    for info in inputs:
        kind = read_type(info)
        if kind.static is not None and len(kind.static) == 1 and kind.static[0] > _LONGEST_DATA:
            yield value_info(info.name, TensorType(kind.elem, (None,)))
        else:
            yield info


def _endless(nodes: Sequence[Node]) -> set[str]:
    """Return outputs of nodes that may build a very long vector, all of which ONNX would track.

    A vector that is repeatedly concatenated with itself doubles each time.
    """
    lengths: dict[str, int] = {}
    return {
        name
        for node in nodes
        if _longest([node.proto], lengths) > _LONGEST_DATA
        for name in node.outputs
    }


def _longest(protos: Iterable[onnx.NodeProto], lengths: dict[str, int]) -> int:
    """Return the number of parts of the longest vector that nodes may build, including inner ones.

    `lengths` maps earlier vectors to their lengths, and is updated.
    """
    most = 1
    for proto in protos:
        if proto.op_type in _HANDED_ON:
            parts = [lengths.get(name, 1) for name in proto.input] or [1]
            length = sum(parts) if proto.op_type == "Concat" else max(parts)
            if length > 1:
                lengths.update(dict.fromkeys(proto.output, length))
                most = max(most, length)
        for graph in inner_graphs([proto]):
            most = max(most, _longest(graph.node, lengths))
    return most


_HANDED_ON = frozenset(
    {"Concat", "Identity", "Cast", "Squeeze", "Unsqueeze", "Slice", "Gather", "Add", "Sub", "Mul"}
)
"""Operators through which ONNX's inference tracks vectors."""


def _known(vectors: Mapping[str, Vector], types: Types) -> Iterator[tuple[str, Array]]:
    """Yield the tensors whose shape and elements are all known."""
    for name in vectors:
        found = _tensor(name, types, vectors)
        if found is not None and found[1].all() and types[name].static is not None:
            yield name, found[0]


def _follow(
    skeleton: onnx.ModelProto, nodes: Sequence[Node], types: Types, known: Mapping[str, Array]
) -> tuple[dict[str, Vector], Types]:
    """Return the small tensors used in shape computations, and the types that follow from them.

    `known` are those that were passed to ONNX. Types that follow from the others are added to
    `types` immediately, so that a chain of computations requires a single pass.
    """
    vectors: dict[str, Vector] = {}
    for tensor in skeleton.graph.initializer:
        if math.prod(tensor.dims) <= _LONGEST:
            _note(vectors, tensor.name, numpy_helper.to_array(tensor))
    told, settled = {*vectors, *known}, Types()
    for node in nodes:
        if any(x in settled or (x in vectors and x not in told) for x in node.inputs):
            settled |= _settled(node, types, vectors)
            types |= {name: settled[name] for name in node.outputs if name in settled}
        if node.op_type == "Constant":
            _note(vectors, node.outputs[0], evaluate(node, {}, {"": node.opset})[0])
            told.add(node.outputs[0])
        elif node.domain == "" and (vector := _vector(node, types, vectors)) is not None:
            vectors[node.outputs[0]] = vector
        elif node.domain == "" and node.op_type in _FOLDED:
            vectors |= _folded(node, types, vectors)
    return vectors, settled


def _settled(
    node: Node, types: Types, vectors: Mapping[str, Vector]
) -> Iterator[tuple[str, TensorType]]:
    """Yield types of a node's outputs with more static dimensions than known before."""
    kinds = {x: types.get(x, TensorType()) for x in node.inputs if x}
    if node.captured or any(kind.elem is None for kind in kinds.values()):
        return
    values = dict(_known({x: vectors[x] for x in kinds if x in vectors}, types))
    try:
        inferred = shape_inference.infer_node_outputs(
            onnx.defs.get_schema(node.op_type, node.opset, node.domain),
            node.proto,
            {x: value_info(x, kind).type for x, kind in kinds.items()},
            {x: numpy_helper.from_array(value, x) for x, value in values.items()},
            opset_imports=[helper.make_opsetid(node.domain, node.opset)],
        )
    except _NOT_INFERRED:
        return
    for name, proto in inferred.items():
        kind = read_type(onnx.ValueInfoProto(type=proto))
        if _fixed(kind.dims or ()) > _fixed(types.get(name, TensorType()).dims or ()):
            yield name, kind


def _note(vectors: dict[str, Vector], name: str, value: Array) -> None:
    if value.dtype.kind in _KINDS and value.size <= _LONGEST:
        vectors[name] = tuple(value.reshape(-1).tolist())


def _vector(node: Node, types: Types, vectors: Mapping[str, Vector]) -> Vector | None:
    """Return what a node computes from vectors; None if it is not a shape computation."""
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
        elems = {types.get(node.input(0), TensorType()).elem, node.attribute("to")}
        return first if elems <= {*_INTEGERS} else None
    if node.op_type == "Concat":
        return _bounded(vectors_given)
    if node.op_type == "Gather":
        return _picked(first, rest[0])
    if node.op_type == "Slice":
        return _sliced(node, first, rest)
    if node.op_type == "Where":
        return _chosen(*vectors_given)
    return None


_ELEMENTWISE = frozenset(
    {"Abs", "Add", "And", "Cast", "Ceil", "Clip", "Div", "Equal", "Floor", "Greater", "Less", "Max"}
    | {"GreaterOrEqual", "LessOrEqual", "Min", "Mod", "Mul", "Neg", "Not", "Or", "Pow", "Round"}
    | {"Sign", "Sqrt", "Sub", "Sum"}
)
_GROWING = frozenset({"Expand", "Tile"})
_FOLDED = _ELEMENTWISE.union(
    ("Concat", "CumSum", "Flatten", "Gather", "GatherElements", "GatherND", "ReduceMax"),
    ("ReduceMin", "ReduceProd", "ReduceSum", "Reshape", "ScatterElements", "ScatterND", "Slice"),
    ("Split", "Squeeze", "Transpose", "Unsqueeze", "Where"),
    _GROWING,
)


def _folded(
    node: Node, types: Types, vectors: Mapping[str, Vector]
) -> Iterator[tuple[str, Vector]]:
    """Yield what a node computes from small tensors: all of it, or its known elements."""
    names = [name for name in node.inputs if name]
    given = {x: found for x in names if (found := _tensor(x, types, vectors)) is not None}
    feeds = {x: value for x, (value, _) in given.items()}
    known = [mask for _, mask in given.values()]
    if not names or not given.keys() >= {*names} or _is_undefined(node, feeds):
        return
    if node.op_type not in _ELEMENTWISE and not all(map(np.all, known)):
        return
    if node.op_type in _GROWING and not _is_short(types.get(node.outputs[0], TensorType())):
        return
    try:
        with np.errstate(all="ignore"):
            results = evaluate(node, feeds, {"": node.opset})
    except Exception:  # invalid operands: ONNX Runtime reports them when it runs the model
        return
    for name, result in zip(node.outputs, results, strict=True):
        if name and result.dtype.kind in _KINDS and result.size <= _LONGEST:
            mask = reduce(np.logical_and, known) if node.op_type in _ELEMENTWISE else True
            pairs = zip(result.flat, np.broadcast_to(mask, result.shape).flat, strict=True)
            yield name, tuple(number.item() if sure else None for number, sure in pairs)


def _tensor(
    name: str, types: Types, vectors: Mapping[str, Vector]
) -> tuple[Array, npt.NDArray[np.bool_]] | None:
    """Return a small tensor, and a mask of its known elements; unknown ones are 1."""
    kind, vector = types.get(name, TensorType()), vectors.get(name)
    if vector is None or kind.elem is None or kind.dims is None:
        return None
    shape = (len(vector),) if len(kind.dims) == 1 else kind.static
    if shape is None or math.prod(shape) != len(vector):
        return None
    known = [number is not None and not isinstance(number, str) for number in vector]
    numbers = [number if sure else 1 for number, sure in zip(vector, known, strict=True)]
    dtype = helper.tensor_dtype_to_np_dtype(kind.elem)
    return np.array(numbers, dtype).reshape(shape), np.array(known, bool).reshape(shape)


def _is_undefined(node: Node, feeds: Mapping[str, Array]) -> bool:
    """Return whether it divides integers by 0, for which NumPy returns 0."""
    divisor = feeds.get(node.input(1))
    whole = node.op_type in ("Div", "Mod") and divisor is not None and divisor.dtype.kind == "i"
    return whole and not np.all(divisor)


# Operators that preserve the order of elements at any rank.
_FLAT = frozenset({"Unsqueeze", "Squeeze", "Reshape", "Identity", "Cast"})


def _is_flat(kind: TensorType | None) -> bool:
    return kind is not None and kind.dims is not None and len(kind.dims) <= 1


def _measured(node: Node, source: TensorType) -> Vector | None:
    if source.dims is None:
        return None
    if node.op_type == "Shape":
        return source.dims[slice(node.attribute("start", 0), node.attribute("end"))]
    return (None if source.static is None else math.prod(source.static),)


def _bounded(vectors: Sequence[Vector]) -> Vector | None:
    """Concat; None if the result is too long to track."""
    return sum(vectors, ()) if sum(map(len, vectors)) <= _LONGEST_DATA else None


def _picked(vector: Vector, places: Vector) -> Vector | None:
    """Gather; None if an index is unknown or out of range."""
    reach = range(-len(vector), len(vector))
    known = [place for place in places if isinstance(place, int) and place in reach]
    return tuple(vector[place] for place in known) if len(known) == len(places) else None


def _generated(node: Node, numbers: Sequence[Dimension | float]) -> Vector | None:
    """Range, and ConstantOfShape of rank 1; None if the result is too long to track."""
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
    """Where: older exporters use it for an expansion that keeps some dimensions."""
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
    """Return the positions that a Slice selects from an axis.

    As in Python, except that with a negative step a start before the first element is clamped to
    it.
    """
    return range(side)[max(start, -side) if step < 0 else start : end : step]


def _shaped(
    nodes: Sequence[Node], types: Types, vectors: Mapping[str, Vector]
) -> Iterator[tuple[str, TensorType]]:
    """Yield types that ONNX does not infer: Reshape to a tracked vector, and a few operators."""
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


# Operators whose dimensions ONNX infers incorrectly if those of the inputs are dynamic.
_MISJUDGED = frozenset({"Attention"})


def _attended(node: Node, q: TensorType, types: Types) -> Iterator[tuple[str, TensorType]]:
    """Yield Attention's types: the output has the queries' batch and length; the others are 4-D."""
    if all(types.get(name, TensorType()).static is not None for name in node.uses):
        return
    assert q.dims is not None
    yield node.outputs[0], TensorType(q.elem, (*q.dims[:-1], None))
    yield from ((name, TensorType(q.elem, (None,) * 4)) for name in node.outputs[1:] if name)


def _fixed(dims: Vector) -> int:
    """Return the number of static dimensions."""
    return sum(isinstance(side, int) for side in dims)


# Operators for which ONNX infers nothing, although the result has the type of the first input.
_SHAPE_KEEPING = frozenset({"GroupNormalization"})


def _keeps_rank(node: Node) -> bool:
    if node.op_type.startswith("Reduce"):
        return bool(node.attribute("keepdims", 1))
    return node.op_type in ("Slice", "Split", "Tile", "Pad")


def _reshaped(source: TensorType, vector: Vector, allow_zero: int) -> tuple[Dimension, ...]:
    """Return the dimensions of a Reshape: 0 copies a dimension, -1 is inferred."""
    dims = [None if isinstance(side, float) else side for side in vector]
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

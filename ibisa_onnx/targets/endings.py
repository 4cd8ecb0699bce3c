"""What the last operators before a tensor reveal: probabilities, an embedding or a sequence.

Only nodes are examined, not values. `discovery` draws the conclusions for a model's outputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ibisa_onnx.models.onnx_graph import TRANSPARENT, origin

if TYPE_CHECKING:
    import onnx

    Makers = Mapping[str, onnx.NodeProto]

_SOFTMAX = frozenset({"Softmax", "LogSoftmax", "QLinearSoftmax"})
_ACTIVATIONS = _SOFTMAX | {"Sigmoid", "HardSigmoid", "QLinearSigmoid"}
_SAME_VALUES = frozenset({"Identity", "Cast", "Dropout"})
_RECURRENT = frozenset({"LSTM", "GRU", "RNN", "DynamicQuantizeLSTM"})
_INDEXING = frozenset({"ArgMax", "ArgMin"})
_SELECTING = _INDEXING | {"TopK"}
RESIZES = frozenset({"Resize", "Upsample"})
"""Operators that resize maps."""
_NEAR = 30  # operators; an L2 norm may consist of ten


@dataclass(frozen=True)
class Selection:
    """Operator that selects an output from scores and has no gradient.

    Attributes
    ----------
    operator
        ZipMap, TopK, ArgMax or ArgMin.
    scores
        The tensor of scores that it reads.
    labels
        Class names that it contains; None if it contains none.
    """

    operator: str
    scores: str
    labels: tuple[str, ...] | None = None


def selection(name: str, makers: Makers) -> Selection | None:
    """Return the ZipMap, TopK or ArgMax that makes a tensor; None if there is none."""
    node = _maker(name, makers)
    if node is None or not node.input:
        return None
    if node.op_type == "ZipMap":
        return Selection("ZipMap", node.input[0], _zip_map_labels(node))
    return Selection(node.op_type, node.input[0]) if node.op_type in _SELECTING else None


def indices_of(name: str, dtype: npt.DTypeLike, makers: Makers) -> Selection | None:
    """Return the operator that selects a tensor's class indices, also through a resize.

    None if the tensor does not hold class indices.
    """
    node = makers.get(origin(name, makers, TRANSPARENT | RESIZES))
    if node is None or not node.input:
        return None
    whole = node.op_type == "TopK" and np.dtype(dtype).kind in "iu"
    return Selection(node.op_type, node.input[0]) if whole or node.op_type in _INDEXING else None


def ends_in_probabilities(name: str, makers: Makers) -> bool:
    """Return whether a softmax or a sigmoid makes a tensor."""
    node = _maker(name, makers)
    return node is not None and node.op_type in _ACTIVATIONS


def feeds_probabilities(name: str, output: str, makers: Makers) -> bool:
    """Return whether a tensor is the input of an output's softmax or sigmoid."""
    node = _maker(output, makers)
    given = node is not None and node.op_type in _ACTIVATIONS and origin(node.input[0], makers)
    return given == origin(name, makers)


def has_unit_length(name: str, makers: Makers) -> bool:
    """Return whether a tensor is divided by its own L2 norm, in any common form."""
    node = _maker(name, makers)
    if node is None:
        return False
    if node.op_type == "LpNormalization":
        return int(_attribute(node, "p", 2)) == 2
    if node.op_type == "Normalizer":  # of ai.onnx.ml
        return bool(_attribute(node, "norm", b"MAX") == b"L2")
    pairs = {"Div": [(0, 1)], "Mul": [(0, 1), (1, 0)]}.get(node.op_type, [])
    return any(_is_norm(node.input[norm], node.input[of], makers) for of, norm in pairs)


def reads_a_line(name: str, makers: Makers) -> bool:
    """Return whether an axis of a tensor [N, T, K] was the image width, read as a line of text.

    True after a recurrent layer, and after transposing one-row features.
    """
    for node in _backwards(name, makers):
        if node.op_type in _RECURRENT:
            return True
        if node.op_type == "Transpose":
            before = makers.get(origin(node.input[0], makers, _SAME_VALUES))
            if before is not None and before.op_type == "Squeeze":
                return True
        if node.op_type == "Concat":
            return False
    return False


def ends_in_softmax(name: str, makers: Makers) -> bool:
    """Return whether a softmax makes a tensor."""
    node = _maker(name, makers)
    return node is not None and node.op_type in _SOFTMAX


def _maker(name: str, makers: Makers) -> onnx.NodeProto | None:
    return makers.get(origin(name, makers))


def _backwards(name: str, makers: Makers) -> Iterator[onnx.NodeProto]:
    """Yield the nodes before a tensor, last first, along the first computed input."""
    for _ in range(_NEAR):
        node = makers.get(name)
        if node is None:
            return
        yield node
        computed = [each for each in node.input if each in makers]
        name = next((each for each in computed if makers[each].op_type != "Constant"), "")


def _is_norm(divisor: str, vector: str, makers: Makers) -> bool:
    """Return whether a divisor (or factor) is the L2 norm of a vector (or its inverse)."""
    whole, reached = origin(vector, makers), False
    left, met, seen = [divisor], list[str](), set[str]()
    while left and len(met) < _NEAR:
        name = left.pop()
        if name in seen:
            continue
        seen.add(name)
        if origin(name, makers) == whole:
            reached = True
        elif name in makers:
            met.append(makers[name].op_type)
            left += makers[name].input
    squaring_powers = int("ReduceSum" in met and "Mul" not in met)
    squared = "ReduceSumSquare" in met or ("ReduceSum" in met and bool({"Mul", "Pow"} & set(met)))
    rooted = "Sqrt" in met or met.count("Pow") > squaring_powers
    return reached and ("ReduceL2" in met or (squared and rooted))


def _zip_map_labels(node: onnx.NodeProto) -> tuple[str, ...] | None:
    words = _attribute(node, "classlabels_strings", ())
    if words:
        return tuple(word.decode("utf-8", "replace") for word in words)
    return tuple(map(str, _attribute(node, "classlabels_int64s", ()))) or None


def _attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    from onnx import helper

    found = [each for each in node.attribute if each.name == name]
    return helper.get_attribute_value(found[0]) if found else default

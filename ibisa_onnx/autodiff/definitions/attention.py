"""ONNX Runtime's fused attention operators, without masks and caches."""

from __future__ import annotations

from ibisa_onnx.autodiff.definitions.fused import scaled
from ibisa_onnx.autodiff.definitions.writer import Definitions, Writer
from ibisa_onnx.autodiff.node import Node
from ibisa_onnx.errors import UnsupportedOperatorError

definitions = Definitions()


@definitions.add("Attention")
def _attention(writer: Writer, node: Node) -> str:
    """Self-attention of [N, S, D], projected by weights [D, 3 H]."""
    _refuse(node, {3: "mask_index", 4: "past", 6: "past_sequence_length"})
    writer.require_rank(0, 3)
    joined = writer.op("MatMul", *writer.inputs[:2])
    if writer.input(2):
        joined = writer.op("Add", joined, writer.input(2))
    sizes = node.attribute("qkv_hidden_sizes", [])
    if sizes:
        q, k, v = writer.ops("Split", 3, joined, writer.ints(*sizes), axis=-1)
    else:
        q, k, v = writer.ops("Split", 3, joined, axis=-1, num_outputs=3)
    return _attended(writer, node, (q, k, v), writer.input(5))


@definitions.add("MultiHeadAttention")
def _multi_head_attention(writer: Writer, node: Node) -> str:
    """Attention of query [N, S, H] to key and value [N, L, H], with an optional bias for each."""
    absent = {4: "key_padding_mask", 6: "past_key", 7: "past_value", 8: "past_sequence_length"}
    _refuse(node, {**absent, 9: "cache_indirection"})
    if not (writer.input(1) and writer.input(2)):
        raise UnsupportedOperatorError("packed query, key and value are not supported")
    for index in range(3):
        writer.require_rank(index, 3)
    q, k, v = writer.inputs[:3]
    if writer.input(3):
        parts = writer.ops("Split", 3, writer.input(3), axis=0, num_outputs=3)
        q, k, v = (writer.op("Add", *pair) for pair in zip((q, k, v), parts, strict=True))
    return _attended(writer, node, (q, k, v), writer.input(5))


def _refuse(node: Node, absent: dict[int, str]) -> None:
    """Raise for unsupported inputs, attributes and outputs."""
    given = [name for index, name in absent.items() if node.input(index)]
    given += [name for name in ("unidirectional", "do_rotary") if node.attribute(name, 0)]
    given += ["cache output" for name in node.outputs[1:] if name][:1]
    if given:
        raise UnsupportedOperatorError(f"its {', '.join(given)} is not supported")


def _attended(writer: Writer, node: Node, qkv: tuple[str, str, str], bias: str) -> str:
    """softmax(q k^T scale + bias) v per head, with heads concatenated."""
    q, k, v = (_heads(writer, x, node.attribute("num_heads")) for x in qkv)
    scores = writer.op("MatMul", q, writer.op("Transpose", k, perm=[0, 1, 3, 2]))
    # A scale of 0 selects the default, as in ONNX Runtime.
    if node.attribute("scale", 0.0):
        scores = scaled(writer, scores, node.attribute("scale"))
    else:
        width = writer.op("Squeeze", writer.op("Shape", q, start=3))
        scores = writer.op("Div", scores, writer.op("Sqrt", writer.op("CastLike", width, q)))
    if bias:
        scores = writer.op("Add", scores, bias)
    mixed = writer.op("MatMul", writer.op("Softmax", scores, axis=-1), v)
    sides = writer.op("Transpose", mixed, perm=[0, 2, 1, 3])
    return writer.op("Reshape", sides, writer.ints(0, 0, -1))


def _heads(writer: Writer, x: str, count: int) -> str:
    """[N, S, count W] -> [N, count, S, W]."""
    split = writer.op("Reshape", x, writer.ints(0, 0, count, -1))
    return writer.op("Transpose", split, perm=[0, 2, 1, 3])

"""Checks on a model's protobuf before anything else reads it.

Protobuf accepts names of arbitrary bytes, functions may call each other until they inline to any
number of nodes, and tensors may claim any shape. ONNX Runtime and ONNX accept these files, or fail
in various ways; here they are rejected with one line.
"""

from __future__ import annotations

import math
from collections import Counter
from functools import cache
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING, Any

from ibisa_onnx.errors import ModelError
from ibisa_onnx.limits import Limits, variable
from ibisa_onnx.models.model_parts import graphs_in, parts

if TYPE_CHECKING:
    import onnx

    from ibisa_onnx.models.model_parts import Body, Parts

    _Key = tuple[str, str, str]

_MOST_VALUES = 2**60  # of a tensor; the size in bytes of a larger one overflows
_MOST_SHOWN = 10**15


def check_sound(
    model: onnx.ModelProto,
    label: str,
    limits: Limits | None = None,
    found: Parts | None = None,
) -> None:
    """Check that an untrusted model can be read; its weights' values are not needed.

    Parameters
    ----------
    model
        The model. Names are checked on its bytes: `names_are_text`.
    label
        Name of the model in error messages.
    limits
        `nodes` applies; None: from the environment.
    found
        Its parts; None: they are collected.

    Raises
    ------
    ModelError
        A tensor's shape is invalid, functions are recursive, or the model has too many nodes with
        its functions inlined.
    """
    found = found or parts(model)
    for tensor in found.tensors:
        dims = tensor.dims
        if dims and (min(dims) < 0 or math.prod(dims) > _MOST_VALUES):
            raise ModelError(
                f"{label}: tensor {tensor.name!r} has the invalid shape {list(dims[:8])}; "
                "re-export the model"
            )
    count = count_nodes(model, label, found)
    most = Limits.of(limits).nodes
    if count > most:
        shown = f"{count:,}" if count < _MOST_SHOWN else f"over 10^{int(math.log10(count))}"
        inlined = " with its functions inlined" if model.functions else ""
        raise ModelError(
            f"{label} has {shown} nodes{inlined}, more than the limit of {most:,}; "
            f"set {variable('nodes')} to allow more"
        )


def count_nodes(model: onnx.ModelProto, label: str, found: Parts | None = None) -> int:
    """Count a model's nodes with its functions inlined, without inlining them.

    Raises
    ------
    ModelError
        Functions are recursive.
    """
    there = sum(len(body.node) for body in (found or parts(model)).bodies)
    if not model.functions:
        return there
    calls = {_key(each, each.name): _operators(each) for each in model.functions}
    waits = {key: operators.keys() & calls.keys() for key, operators in calls.items()}
    sizes: dict[_Key, int] = {}
    try:
        for key in TopologicalSorter(waits).static_order():
            sizes[key] = _written_out(calls[key], sizes)
    except CycleError as error:
        names = ", ".join(name for _, name, _ in error.args[1][:4])
        raise ModelError(
            f"{label}: its functions are recursive ({names}); re-export the model"
        ) from None
    return max(there, _written_out(_operators(model.graph), sizes))


def names_are_text(data: bytes) -> bool:
    """Return whether all names in a model's protobuf are UTF-8; descriptions are not checked.

    `data` must be a protobuf that can be parsed.
    """
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped,unused-ignore]

    try:
        _strict_model()().ParseFromString(data)
    except DecodeError:
        return False
    return True


@cache
def _strict_model() -> Any:
    """Return a class like `onnx.ModelProto`, of the protobuf version that validates text.

    Checking each name in Python takes twenty times as long.
    """
    import onnx
    from google.protobuf import (  # type: ignore[import-untyped,unused-ignore]
        descriptor_pb2,
        descriptor_pool,
        message_factory,
    )

    file = descriptor_pb2.FileDescriptorProto()
    onnx.ModelProto.DESCRIPTOR.file.CopyToProto(file)
    file.ClearField("edition")
    file.syntax = "proto3"
    for message in file.message_type:
        for field in message.field:
            if field.name == "doc_string":
                field.type = field.TYPE_BYTES
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    named = pool.FindMessageTypeByName(f"{file.package}.{onnx.ModelProto.DESCRIPTOR.name}")
    return message_factory.GetMessageClass(named)


def _written_out(operators: Counter[_Key], sizes: dict[_Key, int]) -> int:
    """Return the number of nodes of operators with functions inlined."""
    return sum(count * sizes.get(key, 1) for key, count in operators.items())


def _operators(body: Body) -> Counter[_Key]:
    """Count the operators of a body and its subgraphs."""
    counts: Counter[_Key] = Counter()
    bodies = [body]
    for each in bodies:  # grows during the loop
        counts.update(_key(node, node.op_type) for node in each.node)
        bodies += graphs_in(each)
    return counts


def _key(part: onnx.NodeProto | onnx.FunctionProto, name: str) -> _Key:
    return ("" if part.domain == "ai.onnx" else part.domain, name, part.overload)

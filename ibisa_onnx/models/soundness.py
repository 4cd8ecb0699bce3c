"""What is checked of a model's protobuf before anything else reads it.

Protobuf keeps whatever bytes a name has, functions may write each other out into any number of
nodes, and tensors may claim any shape. ONNX Runtime and ONNX take such files, or fail in ways of
their own; here they are refused in one line.
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

_MOST_VALUES = 2**60  # of a tensor; counted in bytes, more overflows
_MOST_SHOWN = 10**15


def check_sound(
    model: onnx.ModelProto,
    label: str,
    limits: Limits | None = None,
    found: Parts | None = None,
) -> None:
    """See that a model can be read, whoever wrote it; it may be without its weights' values.

    Parameters
    ----------
    model
        It. That names are text is told of its bytes: `names_are_text`.
    label
        What to call it in an error.
    limits
        `nodes` limits how many it has; None: as the environment says.
    found
        Its parts; None: they are looked for.

    Raises
    ------
    ModelError
        A tensor's shape is none, functions call each other in a circle, or it has too many nodes
        once they are written out.
    """
    found = found or parts(model)
    for tensor in found.tensors:
        dims = tensor.dims
        if dims and (min(dims) < 0 or math.prod(dims) > _MOST_VALUES):
            raise ModelError(
                f"{label}: its tensor {tensor.name!r} has shape {list(dims[:8])}; "
                "export the model anew"
            )
    count = count_nodes(model, label, found)
    most = (limits or Limits.from_environment()).nodes
    if count > most:
        shown = f"{count:,}" if count < _MOST_SHOWN else f"over 10^{int(math.log10(count))}"
        written_out = " once its functions are written out" if model.functions else ""
        raise ModelError(
            f"{label} has {shown} nodes{written_out}, more than the {most:,} that are allowed; "
            f"set {variable('nodes')} to allow more"
        )


def count_nodes(model: onnx.ModelProto, label: str, found: Parts | None = None) -> int:
    """Count a model's nodes once its functions are written out, without writing them out.

    Raises
    ------
    ModelError
        Functions call each other in a circle.
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
            f"{label}: its functions call each other in a circle ({names}); export the model anew"
        ) from None
    return max(there, _written_out(_operators(model.graph), sizes))


def names_are_text(data: bytes) -> bool:
    """Tell whether all names in a model's protobuf are UTF-8; descriptions, read by nobody, aside.

    `data` is a protobuf that can be parsed.
    """
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped,unused-ignore]

    try:
        _strict_model()().ParseFromString(data)
    except DecodeError:
        return False
    return True


@cache
def _strict_model() -> Any:
    """Return a class like `onnx.ModelProto`, of the version of protobuf that looks at text.

    To ask for each name in Python takes twenty times as long.
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
    """How many nodes operators are, those that are functions written out."""
    return sum(count * sizes.get(key, 1) for key, count in operators.items())


def _operators(body: Body) -> Counter[_Key]:
    """Count the operators of a body and of the graphs inside it."""
    counts: Counter[_Key] = Counter()
    bodies = [body]
    for each in bodies:  # which grows meanwhile
        counts.update(_key(node, node.op_type) for node in each.node)
        bodies += graphs_in(each)
    return counts


def _key(part: onnx.NodeProto | onnx.FunctionProto, name: str) -> _Key:
    return ("" if part.domain == "ai.onnx" else part.domain, name, part.overload)

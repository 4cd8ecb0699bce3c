"""Extraction of the part of a model between two of its tensors."""

from __future__ import annotations

from dataclasses import dataclass

import onnx

from ibisa_onnx.autodiff.graph import Graph
from ibisa_onnx.autodiff.node import Node, in_order, prune
from ibisa_onnx.autodiff.types import value_info
from ibisa_onnx.errors import ModelError
from ibisa_onnx.models.onnx_graph import cut, logits_of


@dataclass(frozen=True)
class Excerpt:
    """A model with one input, cut out of another between two tensors.

    `begins_inside` and `ends_inside` are true if the tensor is not a declared input or output of
    the original model.
    """

    model: onnx.ModelProto
    input: str
    output: str
    begins_inside: bool
    ends_inside: bool


def excerpt(
    model: onnx.ModelProto,
    label: str,
    *,
    input: str | None = None,
    output: str | None = None,
    logits: bool = False,
) -> Excerpt:
    """Extract the part of a model between two tensors, in place.

    Parameters
    ----------
    model
        A model whose initializers are not listed as inputs.
    label
        Name of the model in error messages.
    input
        Any tensor; None: the only input.
    output
        Any tensor; None: the first output.
    logits
        Whether to end before the softmax or sigmoid that computes the output.

    Raises
    ------
    ModelError
        There is no such tensor, the model has several inputs, the output depends on other inputs
        too, or it has no logits.
    """
    graph = model.graph
    declared = [each.name for each in graph.output]
    if output is None and not declared:
        raise ModelError(f"{label} has no output")
    end = declared[0] if output is None else output
    ends_inside = end not in declared
    if logits:
        end = logits_of(end, graph)
    begins_inside = input is not None and input not in {each.name for each in graph.input}
    if input is not None and begins_inside:
        _begin_at(model, input, end, label)
    names = [str(each.name) for each in graph.input]
    if input is None and len(names) != 1:
        few = (
            f"has several inputs: {', '.join(names)}; choose one with input="
            if names
            else "has no input"
        )
        raise ModelError(f"{label} {few}")
    begin = names[0] if input is None else input
    _drop_others(graph, begin, end, label)
    return Excerpt(model, begin, end, begins_inside, ends_inside)


def _begin_at(model: onnx.ModelProto, tensor: str, output: str, label: str) -> None:
    """Turn an inner tensor of a model into an input."""
    if not any(tensor in node.output for node in model.graph.node):
        inputs = ", ".join(each.name for each in model.graph.input)
        raise ModelError(f"{label} has no tensor {tensor!r}; its inputs are: {inputs}")
    if tensor == output:
        raise ModelError(f"{label}: input and output are both {tensor!r}; choose two tensors")
    kind = Graph(model, tensor, weights=False).type(tensor)
    if kind.elem is None:
        raise ModelError(f"{label}: the type of {tensor!r} is unknown; choose another tensor")
    cut(model.graph, value_info(tensor, kind))


def _drop_others(graph: onnx.GraphProto, input: str, output: str, label: str) -> None:
    """Remove all other inputs, in place; ModelError if the output depends on one."""
    nodes = in_order([Node.read(each, {}) for each in graph.node])
    used = {name for node in prune(nodes, [output]) for name in node.uses}
    others = [each.name for each in graph.input if each.name != input]
    needed = [name for name in others if name in used]
    if needed:
        raise ModelError(
            f"{label}: {output!r} depends on {', '.join(needed)} as well as {input!r}; choose a "
            "tensor that all paths to it go through"
        )
    kept = [each for each in graph.input if each.name == input]
    del graph.input[:]
    graph.input.extend(kept)

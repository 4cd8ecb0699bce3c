"""The operators of backward graphs beside ONNX Runtime's CUDA kernels, as a table.

    python benchmarks/cuda_kernels.py [MODEL ...]

Builds the backward graph of each node test inside `onnx` (see `node_cases`) and of the models
named, and looks up every operator, with its element types, among the kernels in `cuda_kernels.txt`.
Nodes that depend on constants alone are left out: ONNX Runtime works them out when it opens a
graph. Writes the table into `docs/reference/operators.md`. Needs no GPU; whether nodes truly run
there is what `gpu.sh` checks.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import onnx
from conformance import PAGE
from node_cases import Case, load_cases, variant
from onnx import TensorProto, helper, shape_inference
from pages import put

from ibisa_onnx.autodiff import differentiate
from ibisa_onnx.autodiff.node import inner_graphs
from ibisa_onnx.autodiff.types import OPSET
from ibisa_onnx.errors import IbisaError

KERNELS = Path(__file__).with_suffix(".txt")
_HEAD = """Every operator that the backward graphs of the node tests above are written in (those in
float32 and float16, with fixed shapes), and those of {models}, beside ONNX Runtime's CUDA kernels
of opset 18, by `python benchmarks/cuda_kernels.py MODEL ...`. The kernels are those that ONNX
Runtime documents (docs/OperatorKernels.md, commit 001d12d2623f), not those of a GPU at hand:
`benchmarks/gpu.sh` says where each node of an explanation ran. A node without a kernel runs on the
CPU, and its tensors are copied there and back.
"""

Use = tuple[str, str, str]
"""An operator, a type parameter, and an element type that it takes."""

Uses = dict[str, set[tuple[str, str]]]
"""By operator: type parameters and the element types that they take."""

Kernels = dict[str, tuple[str, dict[str, set[str]]]]
"""By operator: the opsets of its CUDA kernel, and the types by type parameter."""


def main() -> None:
    """Collect, look up, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", type=Path)
    args = parser.parse_args()
    uses: Uses = defaultdict(set)
    where: dict[str, set[str]] = defaultdict(set)
    for name, graph in (*backward_of_cases(), *backward_of_models(args.models)):
        for operator, parameter, elem in typed_nodes(graph):
            uses[operator].add((parameter, elem))
            where[operator].add(name)
    head = _HEAD.format(models=", ".join(path.stem for path in args.models) or "no model")
    put(PAGE, "cuda", head + "\n" + table(uses, where, read_kernels()))


def read_kernels() -> Kernels:
    """The kernels that ONNX Runtime documents."""
    lines = [line.split() for line in KERNELS.read_text().splitlines() if line[0] != "#"]
    return {
        operator: (
            opsets,
            {p: set(t.split(",")) for p, t in (part.split("=") for part in types.split(";"))},
        )
        for operator, opsets, types in lines
    }


# -- backward graphs


def backward_of_cases() -> Iterator[tuple[str, onnx.ModelProto]]:
    """The backward graphs of all node tests that have one, by the operator tested."""
    for case in load_cases():
        if case.composite or not _is_deployed(case):
            continue
        for x in case.float_inputs:
            for y in case.float_outputs:
                try:
                    yield case.operator, differentiate(variant(case, x), x, y).backward
                except IbisaError:
                    continue


def _is_deployed(case: Case) -> bool:
    """Whether all its floats are of a type that image models are deployed in."""
    elems = {i.type.tensor_type.elem_type for i in case.model.graph.input}
    return not elems & {TensorProto.DOUBLE, TensorProto.BFLOAT16}


def backward_of_models(paths: list[Path]) -> Iterator[tuple[str, onnx.ModelProto]]:
    """The backward graphs of image models."""
    for path in paths:
        model = onnx.load(path)
        constants = {tensor.name for tensor in model.graph.initializer}
        image = next(each.name for each in model.graph.input if each.name not in constants)
        yield path.stem, differentiate(model, image, model.graph.output[0].name).backward


def typed_nodes(model: onnx.ModelProto) -> Iterator[Use]:
    """Operator, type parameter and element type of each input that is not worked out at load."""
    yield from _typed(shape_inference.infer_shapes(model).graph, {}, {""})


def _typed(graph: onnx.GraphProto, outer: dict[str, int], constant: set[str]) -> Iterator[Use]:
    values = [*graph.input, *graph.value_info, *graph.output]
    elems = outer | {value.name: value.type.tensor_type.elem_type for value in values}
    elems |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    constant = constant | {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        if constant.issuperset(node.input) and not any(inner_graphs([node])):
            constant.update(node.output)
            continue
        for inner in inner_graphs([node]):
            yield from _typed(inner, elems, constant)
        schema = onnx.defs.get_schema(node.op_type, OPSET, node.domain)
        parameters = {constraint.type_param_str for constraint in schema.type_constraints}
        for place, name in enumerate(node.input):
            formal = schema.inputs[min(place, len(schema.inputs) - 1)]
            if name and formal.type_str in parameters:
                yield node.op_type, formal.type_str, _name(elems.get(name, 0))


def _name(elem: int) -> str:
    return helper.tensor_dtype_to_string(elem).partition(".")[2].lower() if elem else "unknown"


# -- the table


def table(uses: Uses, where: dict[str, set[str]], kernels: Kernels) -> str:
    """One row for each operator; those that CUDA lacks, wholly or in a type, first."""
    rows, short = [], []
    for operator in sorted(uses):
        opsets, types = kernels.get(operator, ("none", {}))
        taken = sorted({elem for _, elem in uses[operator]})
        missing = {elem for name, elem in uses[operator] if elem not in types.get(name, {elem})}
        reason = ", ".join(sorted(missing))
        if opsets == "none":
            schema = onnx.defs.get_schema(operator, OPSET)
            written_out = schema.has_function or schema.has_context_dependent_function
            missing, reason = set(taken), f"in gradients of {', '.join(sorted(where[operator]))}"
            reason = "written out in others by ONNX Runtime" if written_out else reason
        row = f"| {operator} | {opsets} | {', '.join(taken)} | {reason} |"
        (short if missing else rows).append(row)
    head = ["| operator | kernel of opsets | used with | without a kernel |", "|---|---|---|---|"]
    total = f"| **all {len(uses)}** | {len(rows)} with every type |  |  |"
    return "\n".join([*head, total, *short, *rows, ""])


if __name__ == "__main__":
    main()

"""`ibisa-onnx gradient`: write a model and its gradient as one ONNX file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ibisa_onnx.commands.console import Console, Line, console_options, heading, write_bytes
from ibisa_onnx.commands.deadlines import deadline_of_all
from ibisa_onnx.commands.model_output import model_destination, write_model
from ibisa_onnx.commands.outputs import STDIO
from ibisa_onnx.commands.stdin import piped_model

if TYPE_CHECKING:
    import onnx

    from ibisa_onnx.models.signature import TensorInfo


@click.command("gradient", short_help="Write a model and its gradient as one ONNX file.")
@click.argument("model")
@click.option(
    "-o",
    "--out",
    metavar="FILE",
    help="Output file, or - for stdout. Default: MODEL.grad.onnx beside MODEL.",
)
@click.option(
    "--input",
    metavar="NAME",
    help="Input to differentiate with respect to. Default: the float input.",
)
@click.option(
    "--output", metavar="NAME", help="Output to differentiate. Default: the first output."
)
@deadline_of_all
@console_options
def command(
    console: Console, model: str, out: str | None, input: str | None, output: str | None
) -> None:
    """Write an ONNX file that computes an output of MODEL and its gradient in one run.

    Its inputs are those of MODEL and `cotangent` (dL/d output); its outputs are the output and
    `gradient` (dL/d input). It requires only ONNX Runtime.
    """
    from ibisa_onnx.autodiff import backward_graph
    from ibisa_onnx.models.onnx_file import ModelFile
    from ibisa_onnx.models.session_options import check_opens

    source = piped_model() if model == STDIO else model
    path = model_destination(model, out, ".grad.onnx")
    graph = backward_graph(source, input=input, output=output)
    file = ModelFile.of(source)
    data = check_opens(graph, file)
    if path is None:
        write_bytes(data)
        console = console.on_stderr()
    else:
        write_model(path, data, graph, file)
    _tell(console, model, path, graph)


def _tell(console: Console, model: str, path: Path | None, graph: onnx.ModelProto) -> None:
    """Report the file written and how to run it."""
    inputs = [_tensor_info(each) for each in graph.graph.input]
    outputs = [_tensor_info(each) for each in graph.graph.output]
    file = str(path) if path else None
    data = {
        "model": model,
        "file": file,
        "opset": graph.opset_import[0].version,
        "inputs": [asdict(each) for each in inputs],
        "outputs": [asdict(each) for each in outputs],
        "cotangent": inputs[-1].name,
        "gradient": outputs[-1].name,
    }
    console.result(_text(file, inputs, outputs), data, bare=[file] if file else [])


def _text(
    file: str | None, inputs: Sequence[TensorInfo], outputs: Sequence[TensorInfo]
) -> list[Line]:
    name = file or "FILE"
    feed = ", ".join(f'"{each.name}": ...' for each in inputs)
    return [
        heading(f"wrote {file}" if file else "wrote to stdout"),
        "",
        heading("inputs"),
        *(f"  {each}" for each in inputs),
        "",
        heading("outputs"),
        *(f"  {each}" for each in outputs),
        "",
        heading("usage"),
        f'  session = onnxruntime.InferenceSession("{name}")',
        f"  output, gradient = session.run(None, {{{feed}}})",
    ]


def _tensor_info(info: onnx.ValueInfoProto) -> TensorInfo:
    """Return the description of an input or output of a graph."""
    from onnx import helper

    from ibisa_onnx.autodiff.types import read_type
    from ibisa_onnx.models.signature import TensorInfo

    kind = read_type(info)
    dtype = str(helper.tensor_dtype_to_np_dtype(kind.elem)) if kind.elem else "?"
    return TensorInfo(info.name, dtype, kind.dims or ())

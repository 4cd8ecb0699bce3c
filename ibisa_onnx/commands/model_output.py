"""Where a model that a verb made is written: its name, and its external weights beside it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ibisa_onnx.commands.outputs import STDIO
from ibisa_onnx.errors import ResultError

if TYPE_CHECKING:
    import onnx


def model_destination(
    model: str, out: str | None, suffix: str, *, in_place: bool = False
) -> Path | None:
    """Return the file to write, None for stdout.

    Parameters
    ----------
    model
        The path it was made from, or "-".
    out
        What `-o` said; None: beside the model, with `suffix` in place of its own.
    in_place
        Whether it may take the model's own place.

    Raises
    ------
    click.UsageError
        It would go to a terminal.
    ResultError
        It would take the model's place and may not.
    """
    if out in (STDIO, "/dev/stdout") or (out is None and model == STDIO):
        if sys.stdout.isatty():
            raise click.UsageError("the model would go to the terminal; give -o FILE, or redirect")
        return None
    path = Path(model).with_suffix(suffix) if out is None else Path(out)
    if model != STDIO and not in_place and path.resolve() == Path(model).resolve():
        raise ResultError(f"{path}: was given as input and is not overwritten; change -o")
    return path


def write_model(path: Path, data: bytes, graph: onnx.ModelProto, source: Path | None) -> None:
    """Write a model, and beside it the external weights, if they are not there already.

    `data` are the bytes of `graph`; `source` is where its weights lie, None where it has none.
    """
    from ibisa_onnx.model.files import external_tensors
    from ibisa_onnx.writing import copy_files, write_files

    if source is not None:
        locations = sorted({tensor.location for tensor in external_tensors(graph)})
        copy_files({source / each: path.parent / each for each in locations})
    write_files({path: data})

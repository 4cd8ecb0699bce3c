"""Where a model that a verb made is written: its name, and its external weights beside it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ibisa_onnx.commands.outputs import STDIO
from ibisa_onnx.io.atomic import check_not_given

if TYPE_CHECKING:
    import onnx


def model_destination(
    model: str,
    out: str | None,
    suffix: str,
    *,
    given: Sequence[str | None] = (),
    in_place: bool = False,
) -> Path | None:
    """Return the file to write, None for stdout.

    Parameters
    ----------
    model
        The path it was made from, or "-".
    out
        What `-o` said; None: beside the model, with `suffix` in place of .onnx.
    given
        Other files that were given, None for those that were not.
    in_place
        Whether it may take the model's own place.

    Raises
    ------
    click.UsageError
        It would go to a terminal.
    ResultError
        It would take the place of a file that was given.
    """
    if out in (STDIO, "/dev/stdout") or (out is None and model == STDIO):
        if sys.stdout.isatty():
            raise click.UsageError("the model would go to the terminal; give -o FILE, or redirect")
        return None
    from ibisa_onnx.models.onnx_file import beside

    path = beside(model, suffix) if out is None else Path(out)
    check_not_given(path, [*given, *([] if in_place or model == STDIO else [model])])
    return path


def write_model(path: Path, data: bytes, graph: onnx.ModelProto, source: Path | None) -> None:
    """Write a model, and beside it the external weights, if they are not there already.

    `data` are the bytes of `graph`; `source` is where its weights lie, None where it has none.
    """
    from ibisa_onnx.io.atomic import copy_files, write_files
    from ibisa_onnx.models.onnx_file import external_tensors

    if source is not None:
        locations = sorted({tensor.location for tensor in external_tensors(graph)})
        check_not_given(path, [source / each for each in locations])
        copy_files({source / each: path.parent / each for each in locations})
    write_files({path: data})

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

    from ibisa_onnx.models.onnx_file import ModelFile


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


def write_model(path: Path, data: bytes, graph: onnx.ModelProto, file: ModelFile) -> None:
    """Write a model, and beside it the external weights, if they are not there already.

    `data` are the bytes of `graph`; `file` is the one it was made from. Where what is there is a
    link that ONNX Runtime would not follow from the new file, as in Hugging Face's cache, the
    weights are copied under another name.
    """
    from ibisa_onnx.io.atomic import copy_files, write_files
    from ibisa_onnx.models.onnx_file import rename_weights, weight_files
    from ibisa_onnx.models.session_options import serialise

    if file.folder is not None:
        names = {name: _name_beside(path, name) for name in weight_files(graph)}
        check_not_given(path, [file.folder / name for name in names])
        copy_files({file.folder / name: path.parent / new for name, new in names.items()})
        if any(name != new for name, new in names.items()):
            data = serialise(rename_weights(graph, names), file.label)
    write_files({path: data})


def _name_beside(path: Path, weights: str) -> str:
    """Return what the file of external weights is called beside a model that is written."""
    real, homes = (path.parent / weights).resolve(), (path.parent, path.resolve().parent)
    if any(real.is_relative_to(home.resolve()) for home in homes):
        return weights
    return f"{path.stem}.{Path(weights).name}"

"""Writing a model that a verb has built: its file name, and its external weights beside it."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from itertools import count
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import click

from ibisa_onnx.commands.console import is_terminal
from ibisa_onnx.commands.outputs import STDIO
from ibisa_onnx.commands.usage import check_output
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
    """Return the path to write to; None for stdout.

    Parameters
    ----------
    model
        Path of the source model, or "-".
    out
        Value of `-o`; None: beside the model, with `suffix` instead of .onnx.
    given
        Other input files; None for those that were not passed.
    in_place
        Whether the source model may be overwritten.

    Raises
    ------
    click.UsageError
        The model would be printed to a terminal, or an input file overwritten.
    """
    from ibisa_onnx.models.endpoint import is_server_url

    if is_server_url(model):
        raise click.UsageError("MODEL is on a server, so there is no file; pass its ONNX file")
    if out in (STDIO, "/dev/stdout") or (out is None and model == STDIO):
        if is_terminal(sys.stdout):
            raise click.UsageError(
                "cannot write a model to the terminal; pass -o FILE or redirect stdout"
            )
        return None
    from ibisa_onnx.models.onnx_file import beside

    path = beside(model, suffix) if out is None else Path(out)
    check_output(path, [*given, *([] if in_place or model == STDIO else [model])])
    return path


def write_model(path: Path, data: bytes, graph: onnx.ModelProto, file: ModelFile) -> None:
    """Write a model, and its external weights beside it unless they already are.

    `data` holds the bytes of `graph`; `file` is its source. If the weights there are a link that
    ONNX Runtime would not follow from the new file, as in Hugging Face's cache, they are copied
    under another name.
    """
    from ibisa_onnx.io.atomic import copy_files, write_files
    from ibisa_onnx.models.external_data import rename_weights, weight_places
    from ibisa_onnx.models.model_parts import tensors
    from ibisa_onnx.models.session_options import serialise

    places = weight_places(tensors(graph), file.path)
    check_not_given(path, places.values())
    names = _names_beside(path, places)
    copy_files({place: path.parent / names[name] for name, place in places.items()})
    if any(name != new for name, new in names.items()):
        data = serialise(rename_weights(graph, names), file.label)
    write_files({path: data})


def _names_beside(path: Path, weights: Iterable[str]) -> dict[str, str]:
    """Return the names of the external weight files beside a new model.

    A file is renamed if its name is the model's own, or resolves to a path outside the folder.
    """
    homes = [home.resolve() for home in (path.parent, path.resolve().parent)]
    names: dict[str, str] = {}
    for name in weights:
        real = (path.parent / name).resolve()
        stays = any(real.is_relative_to(home) for home in homes)
        taken = path.resolve() in (real, *real.parents) or Path(name).parts[0] == path.name
        names[name] = name if stays and not taken else _free(path, name, names.values())
    return names


def _free(path: Path, name: str, taken: Iterable[str]) -> str:
    """Return a new name beside a model for a file that must be renamed."""
    for number in count():
        new = f"{path.stem}.{f'{number}.' if number else ''}{PurePosixPath(name).name}"
        if new not in taken and new != path.name:
            return new
    raise AssertionError

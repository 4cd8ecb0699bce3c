"""Where a model that a verb made is written: its name, and its external weights beside it."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from itertools import count
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import click

from ibisa_onnx.commands.console import is_terminal
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
        if is_terminal(sys.stdout):
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
    """Return what files of external weights are called beside a model that is written.

    They keep their names, but for one that is the model's own, or leads elsewhere from there.
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
    """Return a name beside a model for a file that cannot keep its own."""
    for number in count():
        new = f"{path.stem}.{f'{number}.' if number else ''}{PurePosixPath(name).name}"
        if new not in taken and new != path.name:
            return new
    raise AssertionError

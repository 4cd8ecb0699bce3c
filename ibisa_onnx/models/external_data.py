"""Tensors whose values lie in files beside the model: which files these are, and which may be.

A model names such files, and models come from strangers. So a name is a file's only if it leads to
a regular file inside the model's own folder, or, where the model is a link as in Hugging Face's
cache, inside the folder that this link leads to. Whoever opens, hashes, copies or loads external
data asks `weight_places` first.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING

from ibisa_onnx.errors import ModelError
from ibisa_onnx.io.files import open_regular
from ibisa_onnx.models.model_parts import tensors

if TYPE_CHECKING:
    import onnx

GIVEN = "given-as-a-value"
"""The location of weights that a graph made here does not carry along: `weights.py`."""
_IN_MEMORY = "_ORT_MEM_ADDR_"  # of ONNX Runtime's own tensors: the offset is then an address
_LAST = 2**63 - 1  # a file's last byte
_READ = frozenset({"location", "offset", "length"})


@dataclass(frozen=True)
class ExternalTensor:
    """Where a tensor's values lie outside the model: a file, and which bytes of it.

    A `length` of 0: all behind `offset`.
    """

    name: str
    location: str
    offset: int
    length: int


def external_tensors(among: Iterable[onnx.TensorProto]) -> Iterator[ExternalTensor]:
    """Yield those of some tensors whose values lie in another file than the model.

    Raises
    ------
    ModelError
        What it says of the file is no name, or of the place in it no whole number.
    """
    import onnx

    for tensor in among:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            yield _read(tensor)


def weight_places(
    among: Iterable[onnx.TensorProto], path: Path | None, given: Collection[str] = ()
) -> dict[str, Path]:
    """Return the files that a model's external weights are in, by the names that it gives them.

    Parameters
    ----------
    among
        The tensors of a file's graph, or of one made from it: `model_parts.tensors`.
    path
        The file; None: it was given as bytes.
    given
        Names that stand for no file.

    Returns
    -------
    dict of str to Path
        The files themselves, links followed, in the order of their names.

    Raises
    ------
    ModelError
        One is missing or too short, leaves the model's folder, or is no regular file; of bytes:
        there is one.
    """
    ends: dict[str, int] = {}
    for tensor in external_tensors(among):
        if tensor.location not in given:
            end = tensor.offset + tensor.length
            ends[tensor.location] = max(end, ends.get(tensor.location, 0))
    if not ends:
        return {}
    if path is None:
        raise ModelError(
            f"the model: its weights are in a file of their own ({min(ends)}), which bytes "
            "cannot name; open the model by its path"
        )
    homes = {path.parent.resolve(), path.resolve().parent}
    return {name: _place(name, ends[name], path, homes) for name in sorted(ends)}


def rename_weights(model: onnx.ModelProto, names: Mapping[str, str]) -> onnx.ModelProto:
    """Return a copy of a model that calls the files of its external weights otherwise."""
    copy = type(model)()
    copy.CopyFrom(model)
    for tensor in tensors(copy):
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = names.get(entry.value, entry.value)
    return copy


def load_weights(model: onnx.ModelProto, path: Path | None) -> None:
    """Put the values of a model's external weights into it; `path` is its file's.

    Raises
    ------
    ModelError
        As `weight_places`.
    """
    found = tensors(model)
    places = weight_places(found, path)
    for tensor in found:
        for external in external_tensors([tensor]):
            with open_regular(places[external.location], "weights", ModelError) as file:
                file.seek(external.offset)
                tensor.raw_data = file.read(external.length or -1)
            tensor.ClearField("external_data")
            tensor.ClearField("data_location")


def _read(tensor: onnx.TensorProto) -> ExternalTensor:
    """Read what a tensor says of its values' place."""
    said: dict[str, str] = {}
    for entry in tensor.external_data:
        if entry.key in _READ and entry.key in said:
            raise ModelError(
                f"the external data of tensor {tensor.name!r} has two entries {entry.key!r}; "
                "export the model anew"
            )
        said[entry.key] = entry.value
    location = said.get("location", "")
    if not isinstance(location, str):
        raise ModelError(
            f"the external data of tensor {tensor.name!r} lies in a file whose name "
            "is not UTF-8; export the model anew"
        )
    offset, length = (_number(tensor, key, said.get(key, "0")) for key in ("offset", "length"))
    return ExternalTensor(tensor.name, location, offset, length)


def _number(tensor: onnx.TensorProto, key: str, text: str) -> int:
    digits = isinstance(text, str) and text.isascii() and text.isdecimal() and len(text) <= 19
    if not digits or int(text) > _LAST:
        raise ModelError(
            f"the external data of tensor {tensor.name!r} has {key} {str(text)[:40]!r}, not a "
            "whole number from 0 to 2^63 - 1; export the model anew"
        )
    return int(text)


def _place(location: str, end: int, path: Path, homes: set[Path]) -> Path:
    """Return the file that a location leads to; ModelError where that may not or cannot be."""
    shown = location[:200]
    if not _stays(location):
        raise ModelError(
            f"{path.name}: its weights file {shown!r} is no name of a file inside the model's "
            "folder; put it there and export the model anew"
        )
    place = path.parent / location
    try:
        real = place.resolve()
        if not any(real.is_relative_to(home) for home in homes):
            raise ModelError(
                f"{path.name}: its weights file {shown!r} is a link that leaves the model's "
                "folder; put the file itself there"
            )
        found = real.stat()
    except FileNotFoundError:
        raise ModelError(
            f"{path.name}: its weights file {place} is missing; put it beside the model"
        ) from None
    except (OSError, ValueError, RuntimeError) as error:  # a loop of links is a RuntimeError
        why = getattr(error, "strerror", None) or error
        raise ModelError(f"{path.name}: its weights file {place} cannot be read: {why}") from error
    if not stat.S_ISREG(found.st_mode):
        raise ModelError(
            f"{path.name}: its weights file {place} is no regular file; put the weights there"
        )
    if found.st_size < end:
        raise ModelError(
            f"{path.name}: its weights file {place} is truncated: {found.st_size:,} bytes where "
            f"the model reads up to {end:,}; copy it again"
        )
    return real


def _stays(location: str) -> bool:
    """Whether a name is relative and does not go up, on any system, and is nobody's own mark."""
    if not location or location == GIVEN or _IN_MEMORY in location or "\0" in location:
        return False
    return not any(
        each.anchor or os.pardir in each.parts
        for each in (PurePosixPath(location), PureWindowsPath(location))
    )

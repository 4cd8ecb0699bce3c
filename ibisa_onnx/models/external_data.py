"""External weights: which files hold them, and which files may be read.

A model names its weight files, and models come from untrusted sources. A name is accepted only if
it leads to a regular file inside the model's own folder or, if the model is a symlink as in
Hugging Face's cache, inside the folder it points to. All code that opens, hashes, copies or loads
external data calls `weight_places` first.
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
"""The location of weights that are passed to a derived graph as values: `weights.py`."""
_IN_MEMORY = "_ORT_MEM_ADDR_"  # ONNX Runtime's mark for tensors in memory: offset is an address
_LAST = 2**63 - 1  # largest file offset
_READ = frozenset({"location", "offset", "length"})


@dataclass(frozen=True)
class ExternalTensor:
    """The location of a tensor's values: a file and a byte range.

    A `length` of 0 means everything from `offset` on.
    """

    name: str
    location: str
    offset: int
    length: int


def external_tensors(among: Iterable[onnx.TensorProto]) -> Iterator[ExternalTensor]:
    """Yield the location of each tensor whose values are in an external file.

    Raises
    ------
    ModelError
        A file name is not text, or an offset or length is not an integer.
    """
    import onnx

    for tensor in among:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            yield _read(tensor)


def weight_places(
    among: Iterable[onnx.TensorProto], path: Path | None, given: Collection[str] = ()
) -> dict[str, Path]:
    """Return the files of a model's external weights, by the names that the model uses.

    Parameters
    ----------
    among
        The tensors of a file's graph, or of one derived from it: `model_parts.tensors`.
    path
        The model file; None: it was passed as bytes.
    given
        Names that do not refer to files.

    Returns
    -------
    dict of str to Path
        The files with links resolved, sorted by name.

    Raises
    ------
    ModelError
        A file is missing, too short, outside the model's folder, or not regular; or a model passed
        as bytes has external weights.
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
            f"the model has external weights ({min(ends)}), which cannot be found from bytes; "
            "open the model by its path"
        )
    homes = {path.parent.resolve(), path.resolve().parent}
    return {name: _place(name, ends[name], path, homes) for name in sorted(ends)}


def rename_weights(model: onnx.ModelProto, names: Mapping[str, str]) -> onnx.ModelProto:
    """Return a copy of a model with renamed external weight files."""
    copy = type(model)()
    copy.CopyFrom(model)
    for tensor in tensors(copy):
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = names.get(entry.value, entry.value)
    return copy


def load_weights(model: onnx.ModelProto, path: Path | None) -> None:
    """Load a model's external weights into it, in place; `path` is its file's.

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
    """Parse a tensor's external-data entries."""
    said: dict[str, str] = {}
    for entry in tensor.external_data:
        if entry.key in _READ and entry.key in said:
            raise ModelError(
                f"the external data of tensor {tensor.name!r} has two entries {entry.key!r}; "
                "re-export the model"
            )
        said[entry.key] = entry.value
    location = said.get("location", "")
    if not isinstance(location, str):
        raise ModelError(
            f"the external data of tensor {tensor.name!r} has a file name that is not UTF-8; "
            "re-export the model"
        )
    offset, length = (_number(tensor, key, said.get(key, "0")) for key in ("offset", "length"))
    return ExternalTensor(tensor.name, location, offset, length)


def _number(tensor: onnx.TensorProto, key: str, text: str) -> int:
    digits = isinstance(text, str) and text.isascii() and text.isdecimal() and len(text) <= 19
    if not digits or int(text) > _LAST:
        raise ModelError(
            f"the external data of tensor {tensor.name!r} has {key} {str(text)[:40]!r}, not an "
            "integer from 0 to 2^63 - 1; re-export the model"
        )
    return int(text)


def _place(location: str, end: int, path: Path, homes: set[Path]) -> Path:
    """Return the file a location leads to; raise ModelError if it is not allowed or readable."""
    shown = location[:200]
    if not _stays(location):
        raise ModelError(
            f"{path.name}: weights file {shown!r} is not inside the model's folder; put it there "
            "and re-export the model"
        )
    place = path.parent / location
    try:
        real = place.resolve()
        if not any(real.is_relative_to(home) for home in homes):
            raise ModelError(
                f"{path.name}: weights file {shown!r} is a link to outside the model's folder; "
                "put the file itself there"
            )
        found = real.stat()
    except FileNotFoundError:
        raise ModelError(
            f"{path.name}: weights file {place} is missing; put it beside the model"
        ) from None
    except (OSError, ValueError, RuntimeError) as error:  # a loop of links is a RuntimeError
        why = getattr(error, "strerror", None) or error
        raise ModelError(f"{path.name}: cannot read weights file {place}: {why}") from error
    if not stat.S_ISREG(found.st_mode):
        raise ModelError(
            f"{path.name}: weights file {place} is not a regular file; replace it by one"
        )
    if found.st_size < end:
        raise ModelError(
            f"{path.name}: weights file {place} is truncated: it has {found.st_size:,} bytes, but "
            f"the model reads up to {end:,}; copy it again"
        )
    return real


def _stays(location: str) -> bool:
    """Return whether a name is relative, without "..", on any system, and not a reserved mark."""
    if not location or location == GIVEN or _IN_MEMORY in location or "\0" in location:
        return False
    return not any(
        each.anchor or os.pardir in each.parts
        for each in (PurePosixPath(location), PureWindowsPath(location))
    )

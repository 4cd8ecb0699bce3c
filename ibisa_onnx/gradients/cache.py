"""On-disk cache of backward graphs: a few kilobytes per model, without weights.

The key of an entry is a hash of everything it depends on (the model's content, the output, package
versions and the source code of the differentiation), so entries never go stale. Entries are written
to a temporary name and renamed, so that processes can build concurrently. Each starts with a hash
of its content and key; a corrupt or moved entry is rebuilt.

The hash is not a signature: anyone who can write to the folder can write entries. The folder is
therefore used only if no other user can write to it, and entries are validated before they are
loaded. Whether the gradient matches the model is verified by `fidelity`.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, fields
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ibisa_onnx import autodiff
from ibisa_onnx.checks import check_type
from ibisa_onnx.errors import ModelError, OptionError, ResultError
from ibisa_onnx.io.atomic import write_files
from ibisa_onnx.io.files import read_file
from ibisa_onnx.io.literals import is_integer, parse_json
from ibisa_onnx.io.record import read_fields
from ibisa_onnx.limits import Limits
from ibisa_onnx.models.external_data import GIVEN
from ibisa_onnx.models.model_parts import tensors
from ibisa_onnx.models.soundness import check_sound, names_are_text

if TYPE_CHECKING:
    import onnx

    from ibisa_onnx.autodiff import Derivative

VARIABLE = "IBISA_ONNX_CACHE"
_OFF = "off"
_FORMAT = 2
_SUFFIX = ".gradient"
_MODEL_SOURCES = ("weights.py", "head.py", "onnx_file.py", "onnx_graph.py")
_MOST_ENTRIES = 200
_LARGEST = 8 << 20  # bytes of an entry; a larger one contains weights that could not be removed
_GRAPHS = frozenset({"forward", "backward"})
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_FOLDER_RIGHTS, _ENTRY_RIGHTS = 0o700, 0o600

Choice = bool | str | os.PathLike[str]
"""Whether to cache backward graphs, or the folder to cache them in."""


@dataclass(frozen=True)
class Usage:
    """Size of the cache: number of files, and bytes in total."""

    files: int
    bytes: int


def cache_folder(choice: Choice = True) -> Path | None:
    """Return the folder of the gradient cache, None if caching is off.

    `True` uses the environment variable IBISA_ONNX_CACHE ("off" or a folder) if set, else the
    platform's cache directory.

    Raises
    ------
    OptionError
        `choice` is neither a boolean nor a valid path.
    """
    if isinstance(choice, bool):
        said = os.environ.get(VARIABLE, "").strip() if choice else _OFF
        if said.lower() == _OFF:
            return None
        if not said:
            import platformdirs

            return platformdirs.user_cache_path("ibisa-onnx", appauthor=False)
        choice = said
    check_type("cache", choice, (str, os.PathLike), "True, False or a folder")
    if choice == "":
        raise OptionError("cache is an empty string; pass True, False or a folder")
    try:
        return Path(choice).expanduser().absolute()
    except (TypeError, RuntimeError) as error:
        raise OptionError(f"cache is {choice!r}; pass True, False or a folder") from error


def usage(folder: Path) -> Usage:
    """Return the size of the cache in a folder."""
    sizes = [size for _, size, _ in _entries(folder)]
    return Usage(len(sizes), sum(sizes))


class GradientCache:
    """A gradient cache in one folder, used only if no other user can write to it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def load(self, *made_from: str) -> Derivative | None:
        """Return the derivative stored under `made_from`; None on a cache miss.

        An entry that is corrupt, too large, or writable by another user counts as a miss.
        """
        path = self._path(made_from)
        if _distrust(self._folder) or not _is_own_file(path):
            return None
        try:
            data = read_file(path, "cache", ResultError, Limits(file_bytes=_LARGEST))
        except ResultError:  # also if another process removed it
            return None
        with suppress(OSError):  # owned by root
            os.utime(path)  # the least recently used entries are evicted first
        return _decode(data, path.stem)

    def store(self, derivative: Derivative, *made_from: str) -> None:
        """Store a derivative without weights, and evict the least recently used entries.

        Raises
        ------
        ResultError
            The folder is not writable, or is writable by other users.
        """
        path = self._path(made_from)
        data = _encode(derivative, path.stem)
        if len(data) > _LARGEST:
            return
        _make_folder(self._folder)
        if refusal := _distrust(self._folder):
            raise ResultError(refusal, "choose another folder")
        _clear(path)
        write_files({path: data})
        with suppress(OSError):  # another process wrote the same since
            path.chmod(_ENTRY_RIGHTS)
        newest = sorted(_entries(self._folder), reverse=True)
        for _, _, old in newest[_MOST_ENTRIES:]:
            _remove(old)

    def _path(self, made_from: tuple[str, ...]) -> Path:
        text = json.dumps([*_versions(), *made_from])
        return self._folder / f"{hashlib.sha256(text.encode()).hexdigest()}{_SUFFIX}"


def _entries(folder: Path) -> Iterator[tuple[float, int, Path]]:
    """Yield time, size and path of each entry, skipping any that another process removes."""
    for path in folder.glob(f"*{_SUFFIX}"):
        try:
            found = path.lstat()
        except OSError:
            continue
        if stat.S_ISREG(found.st_mode):
            yield found.st_mtime, found.st_size, path


def _distrust(folder: Path) -> str:
    """Return why a folder is not trusted, i.e. how other users can write to it; empty if trusted.

    Users who can write to a parent folder can replace this one, but only by a folder that they own.
    Windows has no such permissions: a user's profile is private.
    """
    try:
        found = folder.stat()
    except OSError:  # it does not exist, or writing to it raises a clearer error
        return ""
    if not _is_own(found):
        return f"{folder} belongs to another user, who could modify cached graphs"
    if os.name == "posix" and found.st_mode & _OTHERS_WRITE:
        rights = stat.S_IMODE(found.st_mode)
        return f"{folder} is writable by other users (mode {rights:o}); run chmod 700 on it"
    return ""


def _is_own_file(path: Path) -> bool:
    """Return whether a path is a regular file, not a link, that no other user can write to."""
    try:
        found = path.lstat()
    except OSError:
        return False
    shared = os.name == "posix" and found.st_mode & _OTHERS_WRITE
    return stat.S_ISREG(found.st_mode) and _is_own(found) and not shared


def _is_own(found: os.stat_result) -> bool:
    """Return whether a file belongs to this user, or to root, who can write everywhere anyway."""
    return os.name != "posix" or found.st_uid in (os.geteuid(), 0)


def _make_folder(folder: Path) -> None:
    """Create the folder, accessible to this user only."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=_FOLDER_RIGHTS, exist_ok=True)
    except OSError as error:
        raise ResultError(
            f"{folder}: cannot write: {error.strerror}", "choose a writable folder"
        ) from error


def _clear(path: Path) -> None:
    """Remove a pipe or link, which would be written into or followed."""
    with suppress(OSError):  # nothing there, or writing raises a clearer error
        if not stat.S_ISREG(path.lstat().st_mode):
            path.unlink()


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise ResultError(f"{path}: cannot remove an old entry: {error.strerror}") from error


def _versions() -> list[str]:
    """Return everything that an entry depends on besides the model."""
    try:
        ours = metadata.version("ibisa-onnx")
    except metadata.PackageNotFoundError:
        ours = "uninstalled"
    return [str(_FORMAT), ours, metadata.version("onnx"), _hash_of_sources()]


def _hash_of_sources() -> str:
    """Hash the code that builds an entry; a checkout can change without a change of version."""
    here = Path(__file__)
    names = ("class_activation.py", "layer.py", "masked_graph.py", "onnx_backward.py")
    ours = [here.with_name(name) for name in names]
    ours += [here.parents[1] / "models" / name for name in _MODEL_SOURCES]
    digest = hashlib.sha256()
    for path in (*sorted(Path(autodiff.__file__).parent.rglob("*.py")), *ours):
        digest.update(path.read_bytes() if path.is_file() else b"")
    return digest.hexdigest()


def _encode(derivative: Derivative, key: str) -> bytes:
    forward = bytes(derivative.forward.SerializeToString())
    backward = bytes(derivative.backward.SerializeToString())
    names = {
        field.name: getattr(derivative, field.name)
        for field in fields(derivative)
        if field.name not in _GRAPHS
    }
    header = json.dumps({"names": names, "forward": len(forward)}).encode()
    payload = header + b"\n" + forward + backward
    return _digest(key, payload) + b"\n" + payload


def _decode(data: bytes, key: str) -> Derivative | None:
    """Return the derivative encoded under a key; None if the data is corrupt."""
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped,unused-ignore]

    digest, _, payload = data.partition(b"\n")
    if _digest(key, payload) != digest:
        return None
    try:
        return _parse(payload)
    except (ValueError, DecodeError, ModelError):
        return None


def _parse(payload: bytes) -> Derivative:
    """Parse an entry after its hash; ValueError, DecodeError or ModelError if it is malformed."""
    import onnx

    from ibisa_onnx.autodiff import Derivative

    header, _, graphs = payload.partition(b"\n")
    said = parse_json(header.decode())
    if not isinstance(said, dict) or not is_integer(said.get("forward")):
        raise ValueError("no header")
    names = read_fields(Derivative, said.get("names"), "names", _GRAPHS)
    size = said["forward"]
    if not 0 <= size <= len(graphs):
        raise ValueError("graphs are missing")
    parts = graphs[:size], graphs[size:]
    if not all(map(names_are_text, parts)):
        raise ValueError("no graphs")
    forward, backward = map(onnx.load_model_from_string, parts)
    for graph in (forward, backward):
        check_sound(graph, "a cached graph")
    return Derivative(forward, backward, **names)


def _digest(key: str, payload: bytes) -> bytes:
    return hashlib.sha256(key.encode() + payload).hexdigest().encode()


def fits(
    derivative: Derivative, model: onnx.ModelProto, given: Collection[str], outputs: Collection[str]
) -> bool:
    """Return whether a cached derivative fits a model: its graphs have the required interface.

    Parameters
    ----------
    derivative
        The cached derivative.
    model
        The deployed model's graph. The derivative may refer only to files that this graph names.
    given
        The inputs that replace the image, the mask first.
    outputs
        The tensors to differentiate.
    """
    mask, *_ = given
    forward, backward, saved = derivative.forward, derivative.backward, {*derivative.saved}
    inputs = {*given, *(each.name for each in model.graph.input)}
    ends = {derivative.gradient, *filter(None, [derivative.extra])}
    return (
        derivative.input == mask
        and _names(forward.graph.input) <= inputs
        and {derivative.output, *outputs, *saved} <= _names(forward.graph.output)
        and _names(backward.graph.input) <= {derivative.cotangent, *saved}
        and ends == _names(backward.graph.output)
        and derivative.real in ("", *saved)
        and _outside(forward, backward) <= _outside(model) | _large(model)
    )


def _names(values: Collection[onnx.ValueInfoProto]) -> set[str]:
    return {each.name for each in values}


def _outside(*models: onnx.ModelProto) -> set[tuple[Any, ...]]:
    """Return type, shape and location of tensors stored outside, with the name of given ones."""
    found = set()
    for tensor in (each for model in models for each in tensors(model)):
        if tensor.external_data or tensor.data_location == tensor.EXTERNAL:
            place = sorted((each.key, each.value) for each in tensor.external_data)
            who = tensor.name if place == [("location", GIVEN)] else ""
            found.add((who, tensor.data_type, *tensor.dims, *place))
    return found


def _large(model: onnx.ModelProto) -> set[tuple[Any, ...]]:
    """Return the tensors that may be marked as given: the weights inside a model."""
    return {
        (each.name, each.data_type, *each.dims, ("location", GIVEN))
        for each in model.graph.initializer
        if each.data_location != each.EXTERNAL
    }

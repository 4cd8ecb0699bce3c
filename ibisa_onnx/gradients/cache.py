"""On-disk cache of backward graphs: a few kilobytes per model, without weights.

The key of an entry is a hash of everything it depends on (the model's content, the output, package
versions and the source code of the differentiation), so entries never go stale. Each starts with a
hash of its content and key; a corrupt or moved entry is rebuilt.

The hash is not a signature: anyone who can write to the folder can write entries. The folder is
therefore used only if no other user can write to it, and entries are validated before they are
loaded. Whether the gradient matches the model is verified by `fidelity`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection
from dataclasses import dataclass, fields
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ibisa_onnx import autodiff
from ibisa_onnx.checks import check_type
from ibisa_onnx.errors import ModelError, OptionError
from ibisa_onnx.io.literals import is_integer, parse_json
from ibisa_onnx.io.private_folder import PrivateFolder
from ibisa_onnx.io.record import read_fields
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
    sizes = [size for _, size, _ in _files(folder).entries()]
    return Usage(len(sizes), sum(sizes))


class GradientCache:
    """A gradient cache in one folder, used only if no other user can write to it."""

    def __init__(self, folder: Path) -> None:
        self._files = _files(folder)

    def load(self, *made_from: str) -> Derivative | None:
        """Return the derivative stored under `made_from`; None on a cache miss.

        An entry that is corrupt, too large, or writable by another user counts as a miss.
        """
        key = _key(made_from)
        data = self._files.load(key)
        return None if data is None else _decode(data, key)

    def store(self, derivative: Derivative, *made_from: str) -> None:
        """Store a derivative without weights, and evict the least recently used entries.

        Raises
        ------
        ResultError
            The folder is not writable, or is writable by other users.
        """
        key = _key(made_from)
        self._files.store(key, _encode(derivative, key))


def _files(folder: Path) -> PrivateFolder:
    return PrivateFolder(folder, _SUFFIX, _MOST_ENTRIES, _LARGEST)


def _key(made_from: tuple[str, ...]) -> str:
    return hashlib.sha256(json.dumps([*_versions(), *made_from]).encode()).hexdigest()


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

"""Backward graphs that were built before, on disk: for each model, kilobytes without its weights.

An entry is found by what it was made from (the model's content, the output, the versions of all
that took part, and the very sources of the differentiation), so that none is ever out of date. It
is written under another name and renamed, so that two processes may build at once, and begins with
its own hash, so that one that was damaged is built anew.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, fields
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ibisa_onnx import autodiff
from ibisa_onnx.errors import OptionError, ResultError
from ibisa_onnx.io.atomic import write_files

if TYPE_CHECKING:
    from ibisa_onnx.autodiff import Derivative

VARIABLE = "IBISA_ONNX_CACHE"
_OFF = "off"
_FORMAT = 1
_SUFFIX = ".gradient"
_MODEL_SOURCES = ("weights.py", "head.py", "onnx_file.py", "onnx_graph.py")
_MOST_ENTRIES = 200
_LARGEST = 8 << 20  # bytes of an entry; more is weights that could not be taken out

Choice = bool | str | os.PathLike[str]
"""Whether to keep backward graphs, or the folder to keep them in."""


@dataclass(frozen=True)
class Usage:
    """How much is kept: files and bytes."""

    files: int
    bytes: int


def cache_folder(choice: Choice = True) -> Path | None:
    """Return the folder where backward graphs are kept, None where they are not.

    `True` is what the environment's IBISA_ONNX_CACHE says ("off" or a folder), else where the
    platform keeps caches.

    Raises
    ------
    OptionError
        It can be no folder.
    """
    if isinstance(choice, bool):
        said = os.environ.get(VARIABLE, "").strip() if choice else _OFF
        if said.lower() == _OFF:
            return None
        if not said:
            import platformdirs

            return platformdirs.user_cache_path("ibisa-onnx", appauthor=False)
        choice = said
    try:
        return Path(choice).expanduser().absolute()
    except (TypeError, RuntimeError) as error:
        raise OptionError(f"cache is {choice!r}; give True, False or a folder") from error


def usage(folder: Path) -> Usage:
    """Count what is kept in a folder."""
    sizes = [size for _, size, _ in _entries(folder)]
    return Usage(len(sizes), sum(sizes))


class GradientCache:
    """What is kept in one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def load(self, *made_from: str) -> Derivative | None:
        """Return what was stored under `made_from`, or None where it is not there or damaged."""
        path = self._path(made_from)
        try:
            data = path.read_bytes()
        except OSError:
            return None
        with suppress(OSError):  # of somebody else
            os.utime(path)  # the oldest go first
        return _decode(data)

    def store(self, derivative: Derivative, *made_from: str) -> None:
        """Keep a derivative without weights, and only the newest entries beside it.

        Raises
        ------
        ResultError
            The folder cannot be written to.
        """
        data = _encode(derivative)
        if len(data) > _LARGEST:
            return
        path = self._path(made_from)
        write_files({path: data})
        newest = sorted(_entries(self._folder), reverse=True)
        for _, _, old in newest[_MOST_ENTRIES:]:
            _remove(old)

    def _path(self, made_from: tuple[str, ...]) -> Path:
        text = json.dumps([*_versions(), *made_from])
        return self._folder / f"{hashlib.sha256(text.encode()).hexdigest()}{_SUFFIX}"


def _entries(folder: Path) -> Iterator[tuple[float, int, Path]]:
    """Yield age, size and path of each entry; one that another process takes away is none."""
    for path in folder.glob(f"*{_SUFFIX}"):
        try:
            found = path.stat()
        except OSError:
            continue
        yield found.st_mtime, found.st_size, path


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise ResultError(f"{path}: cannot remove an old entry: {error.strerror}") from error


def _versions() -> list[str]:
    """Return all that an entry depends on beside the model."""
    try:
        ours = metadata.version("ibisa-onnx")
    except metadata.PackageNotFoundError:
        ours = "uninstalled"
    return [str(_FORMAT), ours, metadata.version("onnx"), _hash_of_sources()]


def _hash_of_sources() -> str:
    """Hash the code that builds an entry; a checkout changes without a change of version."""
    here = Path(__file__)
    names = ("class_activation.py", "layer.py", "masked_graph.py", "onnx_backward.py")
    ours = [here.with_name(name) for name in names]
    ours += [here.parents[1] / "models" / name for name in _MODEL_SOURCES]
    digest = hashlib.sha256()
    for path in (*sorted(Path(autodiff.__file__).parent.rglob("*.py")), *ours):
        digest.update(path.read_bytes() if path.is_file() else b"")
    return digest.hexdigest()


def _encode(derivative: Derivative) -> bytes:
    forward = bytes(derivative.forward.SerializeToString())
    backward = bytes(derivative.backward.SerializeToString())
    names = {
        field.name: getattr(derivative, field.name)
        for field in fields(derivative)
        if field.name not in ("forward", "backward")
    }
    header = json.dumps({"names": names, "forward": len(forward)}).encode()
    payload = header + b"\n" + forward + backward
    return hashlib.sha256(payload).hexdigest().encode() + b"\n" + payload


def _decode(data: bytes) -> Derivative | None:
    import onnx

    from ibisa_onnx.autodiff import Derivative

    digest, _, payload = data.partition(b"\n")
    if hashlib.sha256(payload).hexdigest().encode() != digest:
        return None
    header, _, graphs = payload.partition(b"\n")
    said = json.loads(header)
    names: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in said["names"].items()
    }
    parts = graphs[: said["forward"]], graphs[said["forward"] :]
    forward, backward = map(onnx.load_model_from_string, parts)
    return Derivative(forward, backward, **names)

"""Weights: read from a file, loaded into a network, drawn from a seed, or downloaded."""

from __future__ import annotations

import contextlib
import socket
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ibisa_onnx.errors import ExportError
from ibisa_onnx.imports import import_extra
from ibisa_onnx.io.files import GIT_LFS
from ibisa_onnx.models.ort_messages import essence

T = TypeVar("T")
State = Mapping[str, Tensor]
_CONTAINERS = ("state_dict", "model_state_dict", "model")
_PREFIXES = ("module.", "_orig_mod.", "model.")
_MISTAKEN = {"an HTML page": b"<", "a Git LFS pointer": GIT_LFS}
_SECONDS, _SILENCE = 5.0, 30.0


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's generator, and restore its state afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def load_weights(module: nn.Module, path: Path, hint: str = "") -> None:
    """Load weights from a file into a network.

    Parameters
    ----------
    module
        The network.
    path
        A state dict (.pth, .pt, .safetensors), or a checkpoint with one under `state_dict` or
        `model`. Only tensors are loaded.
    hint
        Advice if names match but shapes do not.

    Raises
    ------
    ExportError
        The file cannot be read, or its names or shapes do not match the network's.
    """
    own, state = module.state_dict(), _without_prefix(_read(path), module.state_dict())
    counters = {key for key in own if key.endswith("num_batches_tracked")}
    both = own.keys() & state.keys()
    wrong = {
        "missing": sorted(own.keys() - state.keys() - counters),
        "unknown": sorted(state.keys() - own.keys()),
        "of another shape": [
            f"{key} {list(state[key].shape)} (the network has {list(own[key].shape)})"
            for key in sorted(both)
            if state[key].shape != own[key].shape
        ],
    }
    said = [f"{what}: {some(names)}" for what, names in wrong.items() if names]
    if said:
        names_fit = not (wrong["missing"] or wrong["unknown"])
        advice = hint if hint and names_fit else "use weights of the same architecture"
        raise ExportError(f"{path} does not match the network; {'; '.join(said)}; {advice}")
    module.load_state_dict(state, strict=False)


def fetch(url: str, action: Callable[[], T], advice: str) -> T:
    """Run a download after checking that the server responds within seconds.

    Raises
    ------
    ExportError
        The server does not respond, or the download fails; the message ends with `advice`.
    """
    try:
        request = urllib.request.Request(url, method="HEAD")
        with contextlib.suppress(urllib.error.HTTPError):  # also a response
            urllib.request.urlopen(request, timeout=_SECONDS).close()
    except OSError as error:
        raise ExportError(f"cannot reach {url}: {_reason(error)}; {advice}") from error
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_SILENCE)  # torch would wait forever for an unresponsive server
    try:
        return action()
    except (OSError, RuntimeError) as error:
        raise ExportError(f"cannot download {url}: {_reason(error)}; {advice}") from error
    finally:
        socket.setdefaulttimeout(before)


def _reason(error: BaseException) -> str:
    cause = getattr(error, "reason", error)
    return essence(cause) or type(error).__name__


def _read(path: Path) -> State:
    """Return the tensors of a file by name."""
    if not path.is_file():
        there = f"{path} is a folder" if path.is_dir() else f"weights file not found: {path}"
        raise ExportError(f"{there}; weights= must be 'default', 'none' or a file")
    _check_begin(path)
    if path.suffix == ".safetensors":
        load = import_extra("safetensors.torch", "export").load_file
    else:
        load = _torch_load
    try:
        content = load(path)
    except Exception as error:
        raise ExportError(
            f"{path} is not a weights file ({_reason(error).split('. ')[0][:120]}); "
            "write one with torch.save(model.state_dict(), ...) or safetensors"
        ) from error
    for key in _CONTAINERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping):
        raise ExportError(
            f"{path} contains a {type(content).__name__}; save the network's state_dict()"
        )
    tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        raise ExportError(f"{path} contains no tensors; save the network's state_dict()")
    return tensors


def _check_begin(path: Path) -> None:
    """Reject unreadable files, and files often saved by mistake instead of weights."""
    try:
        with path.open("rb") as file:
            begin = file.read(64).lstrip()
    except OSError as error:
        raise ExportError(f"{path} cannot be read: {error.strerror}") from error
    for what, mark in _MISTAKEN.items():
        if begin.startswith(mark):
            raise ExportError(f"{path} is {what} and contains no weights; download it again")


def _torch_load(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True)


def _without_prefix(state: State, own: State) -> State:
    """Remove prefixes that wrappers add to every name, if the network's names lack them."""
    for prefix in _PREFIXES:
        wrapped = all(key.startswith(prefix) for key in state)
        if wrapped and not any(key.startswith(prefix) for key in own):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def some(names: list[str], most: int = 3) -> str:
    """List the first names, and the number of others."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more

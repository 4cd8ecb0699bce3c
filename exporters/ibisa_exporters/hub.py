"""Weights of timm and transformers from the Hugging Face hub: its cache first, then the network.

Unresponsive servers time out.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ibisa_exporters.weights import fetch
from ibisa_onnx.imports import import_extra

T = TypeVar("T")


WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
"""The files that contain weights, or list those that do, in order of preference."""


def fetch_from_hub(repository: str, files: Sequence[str], load: Callable[[], T], advice: str) -> T:
    """Run a function that loads from the hub, offline if one of the files is in its cache.

    Parameters
    ----------
    repository, files
        The repository, and the files of which any one is required.
    load
        Loads the files, and possibly others.
    advice
        Alternatives for the user, appended to the error.

    Raises
    ------
    ExportError
        No file is in the cache, and the hub cannot be reached.
    """
    hub = import_extra("huggingface_hub", "timm")
    constants = hub.constants
    if any(isinstance(hub.try_to_load_from_cache(repository, file), str) for file in files):
        with _offline(constants):
            return load()
    folder = Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"
    where = f"put {files[0]} of {repository} into the cache {folder} (hf download {repository})"
    return fetch(f"{constants.ENDPOINT}/{repository}", load, f"{where}, {advice}")


@contextlib.contextmanager
def _offline(constants: Any) -> Iterator[None]:
    """Prevent the hub's library from querying the server about cached files."""
    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before

"""The hub that timm and transformers publish weights on: its cache first, then the network.

Nothing waits for a server that does not answer.
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
"""The files that hold weights, or name those that do; the usual one first."""


def fetch_from_hub(repository: str, files: Sequence[str], load: Callable[[], T], advice: str) -> T:
    """Run what loads from the hub: from its cache if a file is there, else once it answers.

    Parameters
    ----------
    repository, files
        What is wanted, any of the files; `load` may load more beside it.
    advice
        What else a user can do.

    Raises
    ------
    ExportError
        It is not in the cache, and the hub cannot be reached.
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
    """Keep the hub's library from asking the server about what is in its cache."""
    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before

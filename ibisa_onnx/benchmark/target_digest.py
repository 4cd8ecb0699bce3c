"""What maps depend on beside the picture, as plain data and as a digest that tells it from others.

Shared by what resumes: a comparison's store, and a run over many pictures.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ibisa_onnx.errors import TargetError
from ibisa_onnx.io.files import is_regular, open_regular
from ibisa_onnx.targets.base import FixedTarget

if TYPE_CHECKING:
    from ibisa_onnx.explainer import Explainer
    from ibisa_onnx.methods.base import Method


def request_digest(
    explainer: Explainer,
    method: Method,
    target: Any,
    seed: int,
    files: Sequence[Path] = (),
    more: Mapping[str, Any] | None = None,
) -> str:
    """Return the SHA-256 of all but the picture that a map depends on: what was resolved.

    Parameters
    ----------
    explainer
        Its settings count: the model's content, preprocessing, labels, gradient, options ...
    method
        Its settings count.
    target, seed
        As `Explainer.explain_all` takes them.
    files
        What the method reads.
    more
        What else counts, as plain data by name.
    """
    import ibisa_onnx

    facts = {
        "version": ibisa_onnx.__version__,
        "explainer": explainer.settings,
        "seed": seed,
        "target": digestible(target),
        "method": [method.name, dict(method.settings)],
        "files": [_sha256_of(file) for file in files],
        **(more or {}),
    }
    text = json.dumps(facts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def digestible(target: Any) -> Any:
    """Return a target as JSON data: files that it names, and arrays, by what is in them.

    What is of no known type is told by its `repr`.
    """
    if target is None or isinstance(target, bool | int | float):
        return target
    if isinstance(target, np.generic):
        return target.item()
    if isinstance(target, str | os.PathLike):
        return _path(target)
    if isinstance(target, bytes):
        return _sha256(target)
    if isinstance(target, np.ndarray):
        return [str(target.dtype), list(target.shape), _sha256(target.tobytes())]
    if isinstance(target, Enum):
        return digestible(target.value)
    if isinstance(target, list | tuple):
        return [digestible(each) for each in target]
    if isinstance(target, FixedTarget):
        return digestible(target.objective)
    if is_dataclass(target) and not isinstance(target, type):
        named = {each.name: digestible(getattr(target, each.name)) for each in fields(target)}
        return {"type": type(target).__name__, **named}
    return repr(target)


def _path(text: str | os.PathLike[str]) -> Any:
    """Return a word; of the name of a file also what is in it."""
    word = os.fspath(text)
    try:
        return [word, _sha256_of(word)] if is_regular(word) else word
    except TargetError:  # it may not be read, and is no file to whoever explains
        return word


def _sha256_of(path: str | os.PathLike[str]) -> str:
    with open_regular(path, "target", TargetError) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()

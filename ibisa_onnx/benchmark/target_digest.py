"""Digest of everything but the image that a map depends on.

Used to resume a benchmark and a run over many images.
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
    """Return the SHA-256 of everything but the image that a map depends on, as resolved.

    Parameters
    ----------
    explainer
        Contributes its settings: the model's content, preprocessing, labels, gradient, options etc.
    method
        Contributes its name and settings.
    target, seed
        As in `Explainer.explain_all`.
    files
        Files that the method reads; their content counts.
    more
        Additional facts as plain data, by name.
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
    """Return a target as JSON data, with files and arrays represented by their content.

    Values of unknown types are represented by their `repr`.
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
    """Return a word; if it is the path of a file, with the file's digest."""
    word = os.fspath(text)
    try:
        return [word, _sha256_of(word)] if is_regular(word) else word
    except TargetError:  # unreadable, so it is not used as a file either
        return word


def _sha256_of(path: str | os.PathLike[str]) -> str:
    with open_regular(path, "target", TargetError) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()

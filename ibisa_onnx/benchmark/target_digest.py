"""A target as plain data that tells it from others: what else rows depend on beside the method."""

from __future__ import annotations

import hashlib
import os
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np

from ibisa_onnx.targets.base import FixedTarget


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
        return [word, _sha256(Path(word).read_bytes())]
    except (OSError, ValueError):  # none, a folder, or what can be no name
        return word


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()

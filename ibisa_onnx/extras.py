"""Packages that one feature needs and explaining does not: each belongs to an extra."""

from __future__ import annotations

import importlib
from typing import Any

from ibisa_onnx.errors import MissingDependencyError


def import_extra(module: str, extra: str) -> Any:
    """Import a module, or say which extra brings it.

    Raises
    ------
    MissingDependencyError
        It is not installed, or broken.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingDependencyError(
            f"{module.split('.')[0]} cannot be imported ({error}); "
            f"pip install 'ibisa-onnx[{extra}]'"
        ) from error

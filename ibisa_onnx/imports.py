"""Imports of optional packages: an error names the extra that installs the missing one."""

from __future__ import annotations

import importlib
from typing import Any

from ibisa_onnx.errors import MissingDependencyError


def import_extra(module: str, extra: str) -> Any:
    """Import a module that an extra installs.

    Raises
    ------
    MissingDependencyError
        It is not installed, or broken; the message names the extra.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise missing_extra(module, extra, error) from error


def missing_extra(module: str, extra: str, error: ImportError) -> MissingDependencyError:
    """Return the error for a failed import, naming the extra that installs the module."""
    return MissingDependencyError(
        f"{module.split('.')[0]} cannot be imported ({error}); pip install 'ibisa-onnx[{extra}]'"
    )

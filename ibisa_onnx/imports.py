"""Imports that wait: names loaded when first asked for, and packages that belong to extras."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

from ibisa_onnx.errors import MissingDependencyError


def lazy_names(
    package: str, homes: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return the `__getattr__` and the `__dir__` of a package whose names load when first used.

    Parameters
    ----------
    package
        The package's `__name__`.
    homes
        For each public name the module that defines it, relative to the package.
    """

    def load(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{package}.{homes[name]}"), name)

    def names() -> list[str]:
        return sorted({*homes, *vars(sys.modules[package])})

    return load, names


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
        raise missing_extra(module, extra, error) from error


def missing_extra(module: str, extra: str, error: ImportError) -> MissingDependencyError:
    """Return the error of a module that could not be imported, with the extra that brings it."""
    return MissingDependencyError(
        f"{module.split('.')[0]} cannot be imported ({error}); pip install 'ibisa-onnx[{extra}]'"
    )

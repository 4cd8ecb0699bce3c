"""Packages that comparing needs and explaining does not: those of the extra `bench`."""

from __future__ import annotations

import importlib
from typing import Any

from ibisa_onnx.errors import MissingDependencyError
from ibisa_onnx.metrics.metric import import_stats


def import_extra(module: str) -> Any:
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
            f"{module.split('.')[0]} cannot be imported ({error}); pip install 'ibisa-onnx[bench]'"
        ) from error


def check_extra() -> None:
    """See that all of them are there, before hours of work; the error is that of `import_extra`."""
    import_stats()
    import_extra("psutil")
    import_extra("matplotlib.figure")

"""Packages that comparing needs and explaining does not: those of the extra `bench`."""

from __future__ import annotations

from typing import Any

from ibisa_onnx import imports
from ibisa_onnx.metrics.metric import import_stats


def import_extra(module: str) -> Any:
    """Import a module of the extra `bench`; the error is that of `imports.import_extra`."""
    return imports.import_extra(module, "bench")


def check_extra() -> None:
    """See that all of them are there, before hours of work; the error is that of `import_extra`."""
    import_stats()
    import_extra("psutil")
    import_extra("matplotlib.figure")

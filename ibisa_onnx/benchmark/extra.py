"""Optional packages of the extra `bench`, required for comparisons only."""

from __future__ import annotations

from typing import Any

from ibisa_onnx import imports
from ibisa_onnx.metrics.metric import import_stats


def import_extra(module: str) -> Any:
    """Import a module of the extra `bench`; raises as `imports.import_extra`."""
    return imports.import_extra(module, "bench")


def check_extra() -> None:
    """Check that all packages are installed before the run starts; raises as `import_extra`."""
    import_stats()
    import_extra("psutil")
    import_extra("matplotlib.figure")

"""Several methods on the same pictures of the same model: measured, kept, and put into a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ibisa_onnx.imports import lazy_names

if TYPE_CHECKING:
    from ibisa_onnx.benchmark.maps import MapFolder
    from ibisa_onnx.benchmark.plot import draw
    from ibisa_onnx.benchmark.runner import Benchmark, Entry, Listener
    from ibisa_onnx.benchmark.store import Store
    from ibisa_onnx.benchmark.table import Table

_HOMES = {
    "Benchmark": "runner",
    "Entry": "runner",
    "MapFolder": "maps",
    "Store": "store",
    "Table": "table",
    "Listener": "runner",
    "draw": "plot",
}

__all__ = [
    "Benchmark",
    "Entry",
    "Listener",
    "MapFolder",
    "Store",
    "Table",
    "draw",
]

__getattr__, __dir__ = lazy_names(__name__, _HOMES)

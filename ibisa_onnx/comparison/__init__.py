"""Several methods on the same pictures of the same model: measured, kept, and put into a table."""

from __future__ import annotations

from ibisa_onnx.comparison.contest import Contest, Entry, Watcher
from ibisa_onnx.comparison.evaluation import Checklist, Examiner, Floor, evaluate, subject_of
from ibisa_onnx.comparison.extra import check_extra
from ibisa_onnx.comparison.forecast import Forecast
from ibisa_onnx.comparison.maps import MapFolder, read_map
from ibisa_onnx.comparison.memory import PeakMemory
from ibisa_onnx.comparison.plot import draw
from ibisa_onnx.comparison.row import Row
from ibisa_onnx.comparison.store import Store
from ibisa_onnx.comparison.table import Table

__all__ = [
    "Checklist",
    "Contest",
    "Entry",
    "Examiner",
    "Floor",
    "Forecast",
    "MapFolder",
    "PeakMemory",
    "Row",
    "Store",
    "Table",
    "Watcher",
    "check_extra",
    "draw",
    "evaluate",
    "read_map",
    "subject_of",
]

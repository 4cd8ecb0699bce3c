"""Several methods on the same pictures of the same model: measured, kept, and put into a table."""

from __future__ import annotations

from ibisa_onnx.comparison.contest import Contest, Entry, Row
from ibisa_onnx.comparison.evaluation import evaluate, subject_of
from ibisa_onnx.comparison.memory import PeakMemory
from ibisa_onnx.comparison.plot import draw
from ibisa_onnx.comparison.store import Store
from ibisa_onnx.comparison.table import Table

__all__ = [
    "Contest",
    "Entry",
    "PeakMemory",
    "Row",
    "Store",
    "Table",
    "draw",
    "evaluate",
    "subject_of",
]

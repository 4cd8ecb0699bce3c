"""The embedded demo: a small classifier, a scene for it, and the generator behind both.

Light to import: only names and paths live here. `scenes` draws; `ibisa_exporters.demo_model` made
the two files.
"""

from __future__ import annotations

from pathlib import Path

LABELS: tuple[str, ...] = (
    "star",
    "striped ball",
    "checkerboard",
    "crescent",
    "ring",
    "arrow",
    "flower",
    "cross",
)
"""The names of the demo model's classes, in the order of its outputs."""

_HERE = Path(__file__).parent


def model_path() -> Path:
    """Where the demo's classifier lies: an ONNX file with its preprocessing and labels inside."""
    return _HERE / "model.onnx"


def scene_path() -> Path:
    """Where the demo's picture lies: a PNG with two objects of different classes."""
    return _HERE / "scene.png"

"""The embedded demo: a small classifier, a sample scene, and the generator of such scenes.

Light to import: only names and paths are here. `scenes` draws; `ibisa_exporters.demo_model` created
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
    """Return the path of the demo classifier, an ONNX file with preprocessing and labels."""
    return _HERE / "model.onnx"


def scene_path() -> Path:
    """Return the path of the demo image, a PNG with two objects of different classes."""
    return _HERE / "scene.png"

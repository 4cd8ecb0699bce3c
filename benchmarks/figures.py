"""Draw the figure of the README: the embedded scene, and the maps of its two objects.

python benchmarks/figures.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ibisa_onnx import Explainer
from ibisa_onnx.demo import model_path, scene_path
from ibisa_onnx.io.atomic import write_files
from ibisa_onnx.io.formats import encode_png

FIGURE = Path(__file__).parents[1] / "docs" / "figures" / "demo.png"


def main() -> None:
    """Draw it."""
    explainer = Explainer(model_path())
    drawn = [each.overlay() for each in explainer.explain_all(scene_path(), "top:2")]
    write_files({FIGURE: encode_png(np.hstack(drawn))})


if __name__ == "__main__":
    main()

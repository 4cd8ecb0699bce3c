"""Pictures of explanations.

Arrays in, arrays out; `Explanation.save` and the command line write them to files.
"""

from __future__ import annotations

from ibisa_onnx.render.colormap import colormap
from ibisa_onnx.render.overlay import beside, blend, overlay

__all__ = ["beside", "blend", "colormap", "overlay"]

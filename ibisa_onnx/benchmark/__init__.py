"""Comparison of several methods on the same images and the same model.

`Benchmark` runs each `Entry` on each image and yields rows of scores, which a `Store` saves so that
an interrupted run resumes. `Table` aggregates the rows, `draw` plots them.
"""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

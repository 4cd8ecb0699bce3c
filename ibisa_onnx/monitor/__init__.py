"""Drift: a running summary of explanations, compared with a reference and exported as metrics.

Regions of interest are in `regions`, the measured values in `observation`, the statistics in
`drift`, the saved summary in `summary`, `Monitor` in `watching`, and Prometheus in `exporting`.
"""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

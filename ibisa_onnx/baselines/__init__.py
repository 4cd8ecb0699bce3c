"""The methods that IBISA is compared with."""

from __future__ import annotations

from ibisa_onnx.baselines.rise import rise

__all__ = ["rise"]

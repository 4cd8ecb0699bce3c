"""Preprocessing: from an image to a model's input tensor and back; the spec and its sources."""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

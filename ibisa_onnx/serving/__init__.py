"""Serving explanations: a scheduler, a model server, and adapters for other servers.

All of it is thin, on top of `Explainer`: the protocols are KServe's, Triton's and MLServer's, each
behind an extra of its own.
"""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

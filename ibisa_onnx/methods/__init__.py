"""Attribution methods: IBISA, and the methods it is compared with, one file each."""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

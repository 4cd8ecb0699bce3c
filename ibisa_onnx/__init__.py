"""Attribution maps for deployed ONNX image models: the pixels that a prediction depends on.

    import ibisa_onnx as ibisa

    explanation = ibisa.Explainer("model.onnx").explain("photo.jpg")
    explanation.save("out/")

The public names are listed in `__init__.pyi` and load on first use. Importing the package imports
nothing else: the command line can only handle Ctrl-C once this is done.
"""

from __future__ import annotations

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    return _names()[2] if name == "__all__" else _names()[0](name)


def __dir__() -> list[str]:
    return [*_names()[1](), "__version__"]


def _names() -> tuple:
    """Return what loads, lists and names everything in `__init__.pyi`."""
    import lazy_loader

    return lazy_loader.attach_stub(__name__, __file__)

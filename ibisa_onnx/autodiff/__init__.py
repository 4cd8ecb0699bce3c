"""Reverse-mode differentiation of an ONNX graph.

`backward_graph` turns a model into one that returns its output and its gradient in a single run.
`differentiate` returns two models instead: a forward graph, which also outputs the activations that
derivatives depend on, and a backward graph, which maps them and a cotangent to the gradient.
`missing_rules` lists the operators that prevent differentiation. Nothing here runs a model.
"""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

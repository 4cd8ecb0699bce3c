"""Gradient rules, one module per family of operators, merged into one table."""

from __future__ import annotations

from ibisa_onnx.autodiff.registry import Rules
from ibisa_onnx.autodiff.rules import (
    activations,
    convolution,
    elementwise,
    matmul,
    normalization,
    pooling,
    recurrent,
    reductions,
    resize,
    same,
    sampling,
    shape,
)

RULES = Rules(
    activations.rules,
    convolution.rules,
    elementwise.rules,
    matmul.rules,
    normalization.rules,
    pooling.rules,
    recurrent.rules,
    reductions.rules,
    resize.rules,
    same.rules,
    sampling.rules,
    shape.rules,
)

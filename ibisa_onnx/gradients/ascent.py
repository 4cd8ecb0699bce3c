"""What IBISA's steps climb along: d log p(target | z) / d logits, whatever it comes from."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ibisa_onnx.bottleneck import Floats, sample

Ascent = Callable[[Floats, Floats], Floats]
"""Smoothed logits and a mask's noise, [h, w] each, to d log p(target | z) / d logits, in nats."""
Slope = Callable[[Floats], Floats]
"""A mask s, float32 [h, w] in 0..1, to d log p(target | z) / d s, in nats."""


def pathwise(slope: Slope, temperature: float) -> Ascent:
    """Return the ascent along the gradient at one sampled mask."""

    def ascent(smoothed: Floats, noise: Floats) -> Floats:
        mask = sample(smoothed, noise, temperature)
        return np.asarray(np.float32(1 / temperature) * mask * (1 - mask) * slope(mask))

    return ascent

"""What IBISA's steps climb along: d log p(target | z) / d logits, whatever it comes from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ibisa_onnx.methods.masking import Floats, sample


@dataclass(frozen=True)
class Pull:
    """What was learnt at a sampled mask.

    Attributes
    ----------
    gradient
        d log p(target | z) / d logits, in nats, or at a mask by the mask; float32 [h, w].
    kept
        p(target | z) over p(target | image): what the mask left of the answer. 1 where the source
        of the gradient does not tell.
    """

    gradient: Floats
    kept: float = 1.0


Ascent = Callable[[Floats, Floats], Pull]
"""Smoothed logits and a mask's noise, [h, w] each, to the pull on the logits."""
Slope = Callable[[Floats], Pull]
"""A mask s, float32 [h, w] in 0..1, to the pull on it."""


def pathwise(slope: Slope, temperature: float) -> Ascent:
    """Return the ascent along the gradient at one sampled mask."""

    def ascent(smoothed: Floats, noise: Floats) -> Pull:
        mask = sample(smoothed, noise, temperature)
        pull = slope(mask)
        inner = np.float32(1 / temperature) * mask * (1 - mask)
        return Pull(np.asarray(inner * pull.gradient), pull.kept)

    return ascent

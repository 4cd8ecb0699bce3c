"""What every source of gradients gives: a function that can be pulled back through."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

_SMALL = 1e-6  # of a cotangent, whose largest value is about 1 where a model is not yet certain


class VectorJacobian(Protocol):
    """A function of masks right after an image, and its vector-Jacobian products.

    Any function of arrays [N, ...] can be described by it.
    """

    def forward(self, masks: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float32], Any]:
        """Return raw scores [N, K] of masks [N, 1, h, w] of any grid, and what `backward` needs."""

    def backward(self, saved: Any, cotangent: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return the masks' cotangent [N, 1, h, w] from the scores' [N, K]."""


def power_of_two(cotangent: npt.NDArray[np.floating[Any]], *, half: bool) -> float:
    """Return a power of two near the largest value, where that is too small to be computed with.

    Half precision loses small values, and in single precision denormal numbers, which come from a
    softmax that is all but certain, are slow. Derivatives are linear in the cotangent, and a power
    of two rounds nothing.
    """
    largest = float(np.abs(cotangent).max())
    if not 0 < largest < (np.inf if half else _SMALL):
        return 1.0
    return float(2 ** np.floor(np.log2(largest)))

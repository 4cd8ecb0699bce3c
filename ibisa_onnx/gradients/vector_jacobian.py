"""What every source of gradients gives: a function that can be pulled back through."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt


class VectorJacobian(Protocol):
    """A function of masks right after an image, and its vector-Jacobian products.

    Any function of arrays [N, ...] can be described by it.
    """

    def forward(self, masks: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float32], Any]:
        """Return raw scores [N, K] of masks [N, 1, h, w] of any grid, and what `backward` needs."""

    def backward(self, saved: Any, cotangent: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return the masks' cotangent [N, 1, h, w] from the scores' [N, K]."""

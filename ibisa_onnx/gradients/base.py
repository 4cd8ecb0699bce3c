"""Protocol of a gradient source: a function of masks with vector-Jacobian products."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ibisa_onnx.gradients.masked_images import Floats, MaskedImages
from ibisa_onnx.models.passes import PassCounter

_SMALL = 1e-6  # of a cotangent, whose largest value is about 1 unless the model is saturated

Raw = Mapping[str, npt.NDArray[Any]]


class MaskedModel(Protocol):
    """A model applied to masked images: a function from masks to raw outputs, and its VJP."""

    def take(self, rows: Sequence[int] | npt.NDArray[Any]) -> MaskedModel:
        """Return the function for a subset of the images, sharing buffers where possible."""

    def forward(self, masks: Floats) -> tuple[Raw, Any]:
        """Return raw outputs [N, ...] by name, for masks [N, 1, h, w], and state for `backward`.

        Outputs have the deployed model's dtypes; those of a surrogate are floats.
        """

    def differentiated(self, saved: Any) -> Raw | None:
        """Return the outputs at which cotangents for `backward` are evaluated, as from `forward`.

        For a quantised model these are the outputs of the dequantised float function, which is the
        one that is differentiated. None: the outputs of `forward`.
        """

    def backward(self, saved: Any, cotangents: Mapping[str, Floats]) -> Floats:
        """Return the masks' cotangent [N, 1, h, w] from the cotangents of the raw outputs."""

    def class_activation(self, saved: Any) -> Floats | None:
        """Return the class activation of the last `backward`, [N, 2, r, c], if available."""


GradientSource = Callable[[MaskedImages, PassCounter], MaskedModel]
"""Returns the function for given images, and counts its passes."""


def power_of_two(cotangent: npt.NDArray[np.floating[Any]], *, half: bool) -> float:
    """Return a power of two to divide a cotangent by if its values are too small; else 1.

    Half precision loses small values, and denormals in single precision, which a saturated softmax
    produces, are slow. Derivatives are linear in the cotangent, and scaling by a power of two is
    exact.
    """
    largest = float(np.abs(cotangent).max())
    if not 0 < largest < (np.inf if half else _SMALL):
        return 1.0
    return float(2 ** np.floor(np.log2(largest)))

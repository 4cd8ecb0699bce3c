"""What every source of gradients gives: a function of masks that has vector-Jacobian products."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ibisa_onnx.gradients.masked_images import Floats, MaskedImages
from ibisa_onnx.models.passes import PassCounter

_SMALL = 1e-6  # of a cotangent, whose largest value is about 1 where a model is not yet certain

Raw = Mapping[str, npt.NDArray[Any]]


class MaskedModel(Protocol):
    """A model behind masked images: masks in, raw outputs out, and back."""

    def take(self, rows: Sequence[int] | npt.NDArray[Any]) -> MaskedModel:
        """Return the same for some of the images; what can be used in turns is shared."""

    def forward(self, masks: Floats) -> tuple[Raw, Any]:
        """Return raw outputs [N, ...] by name, for masks [N, 1, h, w], and what `backward` needs.

        They are the deployed model's own, or, from a surrogate, reals.
        """

    def differentiated(self, saved: Any) -> Raw | None:
        """Return the outputs at which `backward` is to be asked, as `forward` gives them.

        That are those of the float function that a quantised model approximates, which is what is
        differentiated; None: `forward`'s own.
        """

    def backward(self, saved: Any, cotangents: Mapping[str, Floats]) -> Floats:
        """Return the masks' cotangent [N, 1, h, w] from those of the raw outputs."""

    def class_activation(self, saved: Any) -> Floats | None:
        """Return the class activation of the last `backward`, [N, 2, r, c], if there is any."""


GradientSource = Callable[[MaskedImages, PassCounter], MaskedModel]
"""Opens the function for images of a run, whose passes are counted."""


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

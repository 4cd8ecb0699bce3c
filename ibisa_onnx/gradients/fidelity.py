"""Whether a source of gradients may be trusted on one picture, and what is done where not."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ibisa_onnx.errors import GradientError, IbisaError, ModelError
from ibisa_onnx.explanation import Certificate
from ibisa_onnx.gradients.selection import GradientPath, forward_only
from ibisa_onnx.methods.masking import Bottleneck
from ibisa_onnx.targets.classification import ClassOutput


@dataclass(frozen=True)
class Certified:
    """A source of gradients, and how far it is from the deployed model on a picture."""

    path: GradientPath
    difference: float | None = None

    @property
    def certificate(self) -> Certificate:
        """What an explanation says of it."""
        path, difference = self.path, self.difference
        holds = difference is None or difference <= path.tolerance
        return Certificate(path.name, path.reason, difference, path.tolerance, holds)


def certify(
    path: GradientPath,
    image: npt.NDArray[np.float32],
    output: ClassOutput,
    probabilities: npt.NDArray[np.float64],
    *,
    auto: bool,
) -> Certified:
    """Hold a source of gradients against the deployed model, for one forward pass.

    Parameters
    ----------
    image
        float32 [1, C, H, W] in model space.
    output, probabilities
        How raw scores are read, and what the deployed model answered, float64 [K].
    auto
        Whether a source that is too far off, or fails to run, is replaced by none at all.

    Raises
    ------
    GradientError
        The source gives another number of scores.
    ModelError
        It failed to run, and not `auto`.
    """
    if path.source is None:
        return Certified(path)
    untouched = Bottleneck(image, np.zeros_like(image))
    try:
        raw, _ = path.source(untouched).forward(np.ones((1, 1, 1, 1), np.float32))
    except ModelError as error:
        return without_gradient(error, auto=auto)
    if raw.size != output.classes:
        raise GradientError(
            f"the {path.name} path gives {raw.size} scores, {output.name} has "
            f"{output.classes}; give a surrogate of this very model"
        )
    given = replace(output, quantisation=None).probabilities(raw)[0]
    difference = float(np.abs(given - probabilities).max())
    if difference <= path.tolerance or not auto:
        return Certified(path, difference)
    return Certified(
        forward_only(
            f"the {path.name} path differs from the deployed model by {difference:.1e} "
            f"(tolerance {path.tolerance:.0e})"
        )
    )


def without_gradient(error: IbisaError, *, auto: bool) -> Certified:
    """Under `auto` go on without the gradient that failed, and say why; else raise."""
    if not auto:
        raise error
    return Certified(forward_only(str(error).split("; ")[0]))

"""The fidelity check: is the path that is differentiated the deployed model, on this picture?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ibisa_onnx.errors import GradientError, IbisaError, ModelError
from ibisa_onnx.explanation import Certificate
from ibisa_onnx.gradients.base import Raw
from ibisa_onnx.gradients.masked_images import MaskedImages
from ibisa_onnx.gradients.selection import GradientPath, forward_only
from ibisa_onnx.logs import logger
from ibisa_onnx.models.passes import PassCounter

_log = logger(__name__)

Readout = Callable[[Raw], npt.NDArray[np.float64]]
"""Raw outputs of one image to probabilities."""


@dataclass(frozen=True)
class CheckedPath:
    """A source of gradients, and how far it is from the deployed model on a picture.

    `difference` is that of its probabilities, `gradient_error` the relative error of its
    directional derivative (`methods.ibisa.gradient_check`); None: it is not known.
    """

    path: GradientPath
    difference: float | None = None
    gradient_error: float | None = None

    @property
    def certificate(self) -> Certificate:
        """What an explanation says of it."""
        path = self.path
        return Certificate(
            path.name,
            path.reason,
            self.difference,
            path.tolerance,
            (self.difference or 0) <= path.tolerance and not self.gradient_is_off,
            self.gradient_error,
            path.gradient_tolerance,
        )

    @property
    def gradient_is_off(self) -> bool:
        """Whether the gradient is not the deployed model's."""
        return (self.gradient_error or 0) > self.path.gradient_tolerance

    def refused(self) -> GradientError:
        """Return why `auto` goes on without a gradient that is off."""
        return GradientError(
            f"the {self.path.name} gradient is not the deployed model's: a step along it changes "
            f"the score otherwise (relative error {self.gradient_error:.2f}, tolerance "
            f"{self.path.gradient_tolerance:g})"
        )


def check_fidelity(
    path: GradientPath,
    image: npt.NDArray[np.float32],
    answer: Raw,
    readouts: Sequence[Readout],
    passes: PassCounter,
    *,
    auto: bool,
) -> list[CheckedPath]:
    """Compare a source of gradients with the deployed model, for one forward pass.

    Parameters
    ----------
    image
        float32 [1, C, H, W] in model space.
    answer
        What the deployed model answered, values [1, ...] by name.
    readouts
        How that is read as probabilities, by each objective.
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
        return [CheckedPath(path)] * len(readouts)
    untouched = MaskedImages(image, np.zeros_like(image))
    try:
        raw, _ = path.source(untouched, passes).forward(np.ones((1, 1, 1, 1), np.float32))
    except ModelError as error:
        return [without_gradient(error, auto=auto)] * len(readouts)
    _check_sizes(path, raw, answer)
    return [_compared(path, readout, raw, answer, auto=auto) for readout in readouts]


def _compared(
    path: GradientPath, readout: Readout, raw: Raw, answer: Raw, *, auto: bool
) -> CheckedPath:
    difference = float(np.abs(readout(raw) - readout(answer)).max())
    if difference <= path.tolerance or not auto:
        return CheckedPath(path, difference)
    why = (
        f"the {path.name} path differs from the deployed model by {difference:.1e} "
        f"(tolerance {path.tolerance:.0e})"
    )
    _log.warning("explained by forward passes alone: %s", why)
    return CheckedPath(forward_only(why))


def _check_sizes(path: GradientPath, raw: Raw, answer: Raw) -> None:
    for name, values in raw.items():
        if name in answer and values.size != answer[name].size:
            raise GradientError(
                f"the {path.name} path gives {values.size} scores, {name} has "
                f"{answer[name].size}; give a surrogate of this very model"
            )


def without_gradient(error: IbisaError, *, auto: bool) -> CheckedPath:
    """Under `auto` go on without the gradient that failed, and say why; else raise."""
    if not auto:
        raise error
    _log.warning("explained by forward passes alone: %s", error.problem)
    return CheckedPath(forward_only(error.problem))

"""Fidelity check: does the differentiated graph reproduce the deployed model on this image?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ibisa_onnx.errors import GradientError, IbisaError, ModelError
from ibisa_onnx.gradients.base import Raw
from ibisa_onnx.gradients.masked_images import MaskedImages
from ibisa_onnx.gradients.selection import GradientPath, forward_only
from ibisa_onnx.logs import logger
from ibisa_onnx.models.passes import PassCounter
from ibisa_onnx.statements import Certificate

_log = logger(__name__)
_LARGE = 0.1  # difference of probabilities, too large for rounding or imperfect training

Readout = Callable[[Raw], npt.NDArray[np.float64]]
"""Function from the raw outputs of one image to probabilities."""


@dataclass(frozen=True)
class CheckedPath:
    """A source of gradients, and its deviation from the deployed model on an image.

    `difference` is the largest difference of probabilities, `gradient_error` the relative error of
    a directional derivative (`methods.ibisa.gradient_check`); None: unknown.
    """

    path: GradientPath
    difference: float | None = None
    gradient_error: float | None = None

    @property
    def certificate(self) -> Certificate:
        """The record of the check in an explanation."""
        path = self.path
        return Certificate(
            path.name,
            path.reason,
            self.difference,
            path.tolerance,
            (self.difference or 0) <= path.tolerance and not self.gradient_is_off,
            self.gradient_error,
            path.gradient_tolerance,
            path.fallback,
        )

    @property
    def gradient_is_off(self) -> bool:
        """Whether the gradient does not match the deployed model."""
        return (self.gradient_error or 0) > self.path.gradient_tolerance

    def refused(self) -> GradientError:
        """Return why `auto` falls back to forward passes."""
        return GradientError(
            f"the {self.path.name} gradient does not match the deployed model: its directional "
            f"derivative has relative error {self.gradient_error:.2f} (tolerance "
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
    """Compare a source of gradients with the deployed model, at the cost of one forward pass.

    Parameters
    ----------
    path
        The source.
    image
        float32 [1, C, H, W] in model space.
    answer
        Raw outputs of the deployed model, [1, ...] by name.
    readouts
        Conversion of raw outputs to probabilities, one per objective.
    passes
        Counts the pass.
    auto
        Whether to fall back to forward passes if the source deviates too much or fails to run.

    Raises
    ------
    GradientError
        The source returns a different number of scores.
    ModelError
        The source fails to run, and `auto` is false.
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
        f"the {path.name} gradient's forward pass differs from the deployed model by "
        f"{difference:.1e} in probability (tolerance {path.tolerance:.0e})"
        f"{input_hint(path.name, difference)}"
    )
    _log.warning("falling back to forward passes: %s", why)
    return CheckedPath(forward_only(why, fallback=True))


def input_hint(path: str, difference: float) -> str:
    """Return a likely cause of a surrogate's large difference of probabilities; or ""."""
    if path != "surrogate" or difference < _LARGE:
        return ""
    return "; the surrogate receives the same preprocessed values as the model"


def _check_sizes(path: GradientPath, raw: Raw, answer: Raw) -> None:
    for name, values in raw.items():
        if name in answer and values.size != answer[name].size:
            raise GradientError(
                f"the {path.name} returns {values.size} scores, but the model's {name} has "
                f"{answer[name].size}; pass a surrogate of this model"
            )


def without_gradient(error: IbisaError, *, auto: bool) -> CheckedPath:
    """Fall back to forward passes under `auto`, and record why; else raise."""
    if not auto:
        raise error
    _log.warning("falling back to forward passes: %s", error.problem)
    return CheckedPath(forward_only(error.problem, fallback=True))

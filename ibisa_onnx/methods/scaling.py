"""Scaling of saliencies to 0..1, preserving their order."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ibisa_onnx.errors import NonFiniteGradientError
from ibisa_onnx.gradients.masked_images import Floats


def min_max_scaled(saliency: npt.NDArray[Any]) -> Floats:
    """Scale linearly from minimum to maximum; zeros if constant."""
    _check(saliency)
    low, high = float(saliency.min()), float(saliency.max())
    if not high > low:
        return np.zeros(saliency.shape, np.float32)
    return np.asarray((saliency - low) / (high - low), np.float32)


def positive_part_scaled(saliency: npt.NDArray[Any]) -> Floats:
    """Return the positive part over its maximum; zeros if nothing is positive."""
    _check(saliency)
    high = float(saliency.max())
    if not high > 0:
        return np.zeros(saliency.shape, np.float32)
    return np.asarray(np.maximum(saliency, 0) / high, np.float32)


def negative_part_scaled(saliency: npt.NDArray[Any]) -> Floats:
    """Return the negative part over the largest magnitude of either sign, 0..1."""
    _check(saliency)
    largest = float(np.abs(saliency).max())
    return np.asarray(np.maximum(-saliency, 0) / (largest or 1.0), np.float32)


def _check(saliency: npt.NDArray[Any]) -> None:
    if not np.isfinite(saliency).all():
        raise NonFiniteGradientError("the map is NaN or infinite for this image")

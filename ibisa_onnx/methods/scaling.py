"""Saliencies of any unit, brought to 0..1 without changing their order."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ibisa_onnx.errors import NonFiniteGradientError
from ibisa_onnx.gradients.masked_images import Floats


def min_max_scaled(saliency: npt.NDArray[Any]) -> Floats:
    """Return it scaled from its least to its largest value; zeros where it is constant."""
    _check(saliency)
    low, high = float(saliency.min()), float(saliency.max())
    if not high > low:
        return np.zeros(saliency.shape, np.float32)
    return np.asarray((saliency - low) / (high - low), np.float32)


def positive_part_scaled(saliency: npt.NDArray[Any]) -> Floats:
    """Return what is above zero, over its largest value; zeros where nothing is."""
    _check(saliency)
    high = float(saliency.max())
    if not high > 0:
        return np.zeros(saliency.shape, np.float32)
    return np.asarray(np.maximum(saliency, 0) / high, np.float32)


def negative_part_scaled(saliency: npt.NDArray[Any]) -> Floats:
    """Return what is below zero, over the largest magnitude of either sign, in 0..1."""
    _check(saliency)
    largest = float(np.abs(saliency).max())
    return np.asarray(np.maximum(-saliency, 0) / (largest or 1.0), np.float32)


def _check(saliency: npt.NDArray[Any]) -> None:
    if not np.isfinite(saliency).all():
        raise NonFiniteGradientError("the map has NaN or infinite values on this image")

"""Evidence against the prediction, from the same ten steps as the evidence for it.

The map keeps the positive part of the evidence; this is the negative part. By the last step, lambda
is near 0 wherever showing more lowers the score, so it cannot rank these cells. They are ranked by
the signed evidence E, the mean of the steps' gradients, each divided by its root mean square, and
the signed class activation C, the mean of the steps' net maps, each divided by its largest
magnitude:

    a = sqrt(max(-E, 0) / max|E| * (max(-C, 0) / max|C| + f) / (1 + f))
    against = max(map) max(a - n, 0) / (1 - n)

E is smoothed over more cells than for the map: a network's gradients change sign from one cell to
the next, and here no lambda hides cells that do not matter. Both factors are relative to the
largest magnitude of either sign, so an image without evidence against its prediction shows almost
nothing; n is the noise level. Without class activation maps, a is the factor of E alone, without
the root. docs/explanation/research-notes.md has the measurements.

This takes no further passes. In `forward_only.py`, effects take the place of E.
"""

from __future__ import annotations

import cv2
import numpy as np

from ibisa_onnx.gradients.masked_images import Floats
from ibisa_onnx.methods.ibisa.optimizer import LogitGradient, Step
from ibisa_onnx.methods.masking import smooth

_SMOOTHING = 3 / 56  # standard deviation of the Gaussian over E, in grid sides
_FLOOR = 0.05  # f: floor of the coarse maps, as for the map itself
_NOISE = 0.06  # n


class EvidenceAgainst:
    """Accumulates signed evidence and class activation of `count` rows, step by step."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._evidence: Floats | None = None
        self._activation: Floats | None = None

    def watch(self, step: Step) -> Step:
        """Return the step, wrapped so that its gradients are accumulated."""

        def watched(smoothed: Floats, noise: Floats) -> LogitGradient:
            found = step(smoothed, noise)
            evidence = self._by_answer(found.relative)
            self._evidence = evidence if self._evidence is None else self._evidence + evidence
            if found.activation is not None:
                active = self._by_answer(_over_largest(found.activation[:, 0]))
                self._activation = active if self._activation is None else self._activation + active
            return found

        return watched

    def below(self, maps: Floats) -> Floats:
        """Return the evidence against each prediction, on the scale of its map.

        Parameters
        ----------
        maps
            float32 [N, h, w] in 0..1, after the steps so far.

        Returns
        -------
        ndarray
            float32 [N, h, w], from 0 to the map's maximum.
        """
        found = np.zeros_like(maps)
        if self._evidence is None:
            return found
        with np.errstate(invalid="ignore"):  # gradients may not be finite
            below = _negative_share(smooth(self._evidence, _SMOOTHING * max(maps.shape[-2:])))
        for row, map in enumerate(maps):
            clear = np.maximum(self._joined(below[row], row) - _NOISE, 0) / (1 - _NOISE)
            found[row] = map.max() * clear
        return found

    def _joined(self, evidence: Floats, row: int) -> Floats:
        """Return the geometric mean with a row's class activation, if there is any."""
        if self._activation is None or not self._activation[row].any():
            return evidence
        size = evidence.shape[::-1]
        active = cv2.resize(self._activation[row], size, interpolation=cv2.INTER_LINEAR)
        active = (_negative_share(active[None])[0] + _FLOOR) / (1 + _FLOOR)
        return np.asarray(np.sqrt(evidence * active))

    def _by_answer(self, each: Floats) -> Floats:
        """Sum [M, ...] over the rounds of each row, [N, ...]."""
        return np.asarray(each.reshape(self._count, -1, *each.shape[1:]).sum(1))


def _over_largest(fields: Floats) -> Floats:
    """Divide each of [M, r, c] by its largest magnitude; zeros if one is not finite."""
    finite = np.isfinite(fields).all((1, 2), keepdims=True)
    fields = np.where(finite, fields, 0)
    largest = np.abs(fields).max((1, 2), keepdims=True)
    return np.asarray(fields / np.where(largest > 0, largest, 1), np.float32)


def _negative_share(fields: Floats) -> Floats:
    """Return the negative part of each of [N, h, w] over its largest magnitude, 0..1."""
    largest = np.abs(fields).max((1, 2), keepdims=True)
    return np.asarray(np.maximum(-fields, 0) / np.where(largest == 0, 1, largest), np.float32)

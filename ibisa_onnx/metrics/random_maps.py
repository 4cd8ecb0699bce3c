"""Random maps as smooth as a given one: what a map must be better than to say anything.

Noise pixel by pixel is no measure for a smooth map: as it goes, every part of the picture fades
alike, while a smooth map, right or wrong, hides one part after the other.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ibisa_onnx.metrics.maps import Map, Saliency, checked_map, falling_order

_ROUNDS = 10


def smooth_random(saliency: Saliency, rng: np.random.Generator) -> Map:
    """Draw a map of the same values and the same spectrum, at random places.

    The phases of the map's Fourier transform are drawn anew and its values put in the order of what
    that gives, in turns, so that it is as rough as the map is at every scale (iterated amplitude-
    adjusted Fourier transform: Schreiber and Schmitz, Phys. Rev. Lett. 77, 635, 1996). The map is
    mirrored at its borders first, or jumps from one border to the other would count as roughness.

    Parameters
    ----------
    saliency
        [H, W], any real type.
    rng
        Draws the phases.

    Returns
    -------
    float64 [H, W]
        The values of the map, each as often; a constant map for a constant one.
    """
    values = checked_map(saliency)
    height, width = values.shape
    mirrored = np.pad(values, ((0, height), (0, width)), mode="symmetric")
    amplitude = np.abs(np.fft.rfft2(mirrored))
    ascending = np.sort(mirrored, axis=None)
    drawn = rng.standard_normal(mirrored.shape)
    for _ in range(_ROUNDS):
        phases = np.fft.rfft2(drawn)
        shaped = amplitude * _unit(phases)
        drawn = _in_order_of(np.fft.irfft2(shaped, mirrored.shape), ascending)
    return _in_order_of(drawn[:height, :width], np.sort(values, axis=None))


def _unit(values: npt.NDArray[np.complex128]) -> npt.NDArray[np.complex128]:
    """Return complex numbers of the same phases and length one; 0 stays 0."""
    sizes = np.abs(values)
    return np.divide(values, sizes, out=np.zeros_like(values), where=sizes > 0)


def _in_order_of(field: npt.NDArray[np.float64], ascending: npt.NDArray[np.float64]) -> Map:
    """Return sorted values, the largest where the field is."""
    result = np.empty(field.size)
    result[falling_order(field)] = ascending[::-1]
    return result.reshape(field.shape)

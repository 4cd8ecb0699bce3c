"""Random maps as smooth as a given map: the chance level for faithfulness metrics.

Pixel-wise noise is not a fair comparison for a smooth map: hiding pixels in its order fades every
part of the image alike, while any smooth map, right or wrong, hides one part after another.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ibisa_onnx.metrics.maps import Map, Saliency, checked_map, falling_order

_ROUNDS = 10


def smooth_random(saliency: Saliency, rng: np.random.Generator) -> Map:
    """Draw a random map with the values and the spectrum of a given map.

    Random phases for the map's Fourier transform and the map's sorted values are imposed in turn,
    so that the result is as rough as the map at every scale (iterated amplitude-adjusted Fourier
    transform: Schreiber and Schmitz, Phys. Rev. Lett. 77, 635, 1996). The map is mirrored at its
    borders first; otherwise jumps between opposite borders would count as roughness.

    Parameters
    ----------
    saliency
        Map [H, W], any real dtype.
    rng
        Draws the phases.

    Returns
    -------
    numpy.ndarray
        float64 [H, W], a permutation of the map's values; constant if the map is.

    Raises
    ------
    MetricError
        The map is not a finite real array [H, W].
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
    """Return complex numbers of the same phases and magnitude one; 0 stays 0."""
    sizes = np.abs(values)
    return np.divide(values, sizes, out=np.zeros_like(values), where=sizes > 0)


def _in_order_of(field: npt.NDArray[np.float64], ascending: npt.NDArray[np.float64]) -> Map:
    """Return sorted values arranged in the rank order of a field."""
    result = np.empty(field.size)
    result[falling_order(field)] = ascending[::-1]
    return result.reshape(field.shape)

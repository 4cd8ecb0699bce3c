"""Localisation metrics: how well a map highlights a known object.

They require no model, only a map and the object's pixels, from a mask or `box_region`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ibisa_onnx.errors import OptionError
from ibisa_onnx.metrics.maps import (
    Map,
    Region,
    Saliency,
    checked_map,
    checked_region,
    falling_order,
)
from ibisa_onnx.metrics.metric import Metric


@dataclass(frozen=True)
class LocalisationMetric(Metric):
    """A metric that compares a map with the pixels of an object.

    Attributes
    ----------
    measure
        Computes the metric from a validated map float64 [H, W] and a validated region bool [H, W].
    """

    measure: Callable[[Map, Region], float]

    def __call__(self, saliency: Saliency, region: Region) -> float:
        """Compute the metric.

        Parameters
        ----------
        saliency
            Map [H, W], any real dtype; higher is more important.
        region
            bool [H, W], True on the object.

        Returns
        -------
        float
            The value, within `limits`.

        Raises
        ------
        MetricError
            Map and region differ in shape, the map is not finite, or the region is empty or covers
            the whole image.
        """
        values = checked_map(saliency)
        return self.measure(values, checked_region(region, values.shape))


def pointing_game(tolerance: float = 15.0) -> LocalisationMetric:
    """Build the pointing game: whether the map's maximum lies on the object.

    Zhang et al. (excitation backprop), arXiv 1608.00507. If the maximum is attained several times,
    the first in row-major order counts.

    Parameters
    ----------
    tolerance
        Largest accepted distance to the object, in pixels of the map. The usual value is 15 pixels
        of the original image.

    Returns
    -------
    LocalisationMetric
        1 for a hit, 0 for a miss; higher is better.

    Raises
    ------
    OptionError
        `tolerance` is negative.
    """
    if not tolerance >= 0:
        raise OptionError(f"tolerance is {tolerance}; pass 0 pixels or more")

    def measure(values: Map, region: Region) -> float:
        row, column = divmod(int(falling_order(values)[0]), values.shape[1])
        rows, columns = np.nonzero(region)
        nearest = ((rows - row) ** 2 + (columns - column) ** 2).min()
        return float(nearest <= tolerance**2)

    return LocalisationMetric(
        "pointing game",
        True,
        (0.0, 1.0),
        f"1 if the map's maximum is within {tolerance:g} pixels of the object, else 0",
        measure,
    )


def effective_heat_ratio(threshold: float = 0.1) -> LocalisationMetric:
    """Build the effective heat ratio: heat on the object per pixel above a cut, over all cuts.

    Zhang et al. (InputIBA), arXiv 2110.01471, as in their code: negative values are set to 0 and
    the map is divided by its maximum. The quantiles 0, 0.1, ..., 1 of the values at or above
    `threshold`, capped at 0.99, are the cuts; at each cut, the heat on the object above it is
    divided by the number of all pixels above it. The value is the area under these ratios. A map
    without positive values scores 0.

    Parameters
    ----------
    threshold
        Lowest value, relative to the maximum, that is taken into account; 0 or more, below 1.

    Returns
    -------
    LocalisationMetric
        From 0 to 1; higher is better.

    Raises
    ------
    OptionError
        `threshold` is out of range.
    """
    if not 0 <= threshold < 1:
        raise OptionError(f"threshold is {threshold}; pass 0 or more, below 1")

    def measure(values: Map, region: Region) -> float:
        heat = np.maximum(values, 0)
        if not heat.any():
            return 0.0
        heat = heat / heat.max()
        cuts = np.quantile(heat[heat >= threshold], np.linspace(0, 1, 11))
        ratios = []
        for cut in np.minimum(cuts, 0.99):
            above = heat >= cut
            ratios.append(heat[above & region].sum() / above.sum())
        return float(np.mean(np.add(ratios[1:], ratios[:-1]) / 2))

    return LocalisationMetric(
        "effective heat ratio",
        True,
        (0.0, 1.0),
        "heat on the object per pixel above a cut, averaged over all cuts",
        measure,
    )


def _energy(values: Map, region: Region) -> float:
    positive = np.maximum(values, 0)
    if not positive.any():
        return 0.0
    positive = positive / positive.max()
    return float(positive[region].sum() / positive.sum())


def _box_ratio(values: Map, region: Region) -> float:
    size = int(region.sum())
    return float(region.ravel()[falling_order(values)[:size]].mean())


POINTING_GAME = pointing_game()
ENERGY = LocalisationMetric(
    "energy",
    True,
    (0.0, 1.0),
    "fraction of the map's positive sum that lies on the object",
    _energy,
)
"""Energy-based pointing game of Wang et al. (Score-CAM), arXiv 1910.01279, also reported by the
code of the IBA paper. Negative values count as 0; a map without positive values scores 0."""
BOX_RATIO = LocalisationMetric(
    "box ratio",
    True,
    (0.0, 1.0),
    "fraction of the n highest-ranked pixels on the object, n being the object's size",
    _box_ratio,
)
"""Schulz et al. (IBA), arXiv 2001.00396: the fraction of the n highest-ranked pixels that lie on an
object of n pixels. The paper uses boxes that cover at most 33% of the image."""
EHR = effective_heat_ratio()

LOCALISATION: tuple[LocalisationMetric, ...] = (POINTING_GAME, ENERGY, BOX_RATIO, EHR)
"""All localisation metrics."""

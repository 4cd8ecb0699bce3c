"""Localisation metrics: how well a map lies on an object that is known to be there.

They need no model: a map and the object's pixels, from a mask or `box_region`.
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
    """A metric of a map beside the pixels of an object.

    Attributes
    ----------
    measure
        Computes it from a checked map float64 [H, W] and a checked region bool [H, W].
    """

    measure: Callable[[Map, Region], float]

    def __call__(self, saliency: Saliency, region: Region) -> float:
        """Return the metric of one map.

        Parameters
        ----------
        saliency
            [H, W], any real type; the higher, the more important.
        region
            bool [H, W], True on the object.

        Raises
        ------
        MetricError
            Map and region differ in shape, the map is not finite, or the region is empty or the
            whole picture.
        """
        values = checked_map(saliency)
        return self.measure(values, checked_region(region, values.shape))


def pointing_game(tolerance: float = 15.0) -> LocalisationMetric:
    """Whether the peak is on the object, or within `tolerance` pixels of it.

    Zhang et al. (excitation backprop), arXiv 1608.00507. Of several equal peaks the first counts,
    row by row. The tolerance is usually 15 pixels of the picture as it was taken.
    """
    if not tolerance >= 0:
        raise OptionError(f"tolerance is {tolerance}; give 0 pixels or more")

    def measure(values: Map, region: Region) -> float:
        row, column = divmod(int(falling_order(values)[0]), values.shape[1])
        rows, columns = np.nonzero(region)
        nearest = ((rows - row) ** 2 + (columns - column) ** 2).min()
        return float(nearest <= tolerance**2)

    return LocalisationMetric(
        "pointing game",
        True,
        (0.0, 1.0),
        f"1 where the peak is within {tolerance:g} pixels of the object, else 0",
        measure,
    )


def effective_heat_ratio(threshold: float = 0.1) -> LocalisationMetric:
    """How much heat lies on the object, for each pixel at least as hot, over all temperatures.

    Zhang et al. (InputIBA), arXiv 2110.01471, as in their code: the map, negative values set to 0,
    is divided by its maximum. Of the pixels at `threshold` or above, the quantiles 0, 0.1 ... 1
    (at most 0.99) are cuts in turn; at each, the heat on the object above the cut is divided by the
    number of all pixels above it. The value is the area under these ratios. 0 for a map without a
    positive value.
    """
    if not 0 <= threshold < 1:
        raise OptionError(f"threshold is {threshold}; give 0 or more, below 1")

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
        "heat on the object for each pixel as hot, over all temperatures",
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
    "energy", True, (0.0, 1.0), "share of the map's positive sum that lies on the object", _energy
)
"""Wang et al. (Score-CAM), arXiv 1910.01279, the energy-based pointing game; the code of the IBA
paper reports it too. Negative values count as 0; a map without a positive value scores 0."""
BOX_RATIO = LocalisationMetric(
    "box ratio",
    True,
    (0.0, 1.0),
    "of as many top pixels as the object has, the share that lies on it",
    _box_ratio,
)
"""Schulz et al. (IBA), arXiv 2001.00396: with n the size of the object, the share of the n highest
pixels that lie on it. The paper takes boxes of at most 33% of the picture."""
EHR = effective_heat_ratio()

LOCALISATION: tuple[LocalisationMetric, ...] = (POINTING_GAME, ENERGY, BOX_RATIO, EHR)

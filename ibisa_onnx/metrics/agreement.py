"""Agreement between maps: high across seeds of one method, low across different models."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from ibisa_onnx.errors import MetricError
from ibisa_onnx.metrics.correlation import rank_correlation
from ibisa_onnx.metrics.maps import Map, Saliency, checked_map
from ibisa_onnx.metrics.metric import Metric

_DETERMINISTIC = (
    "the maps are identical, so the method does not depend on the seed and seed stability is 1 by "
    "construction; measure `stability`, or a method that samples"
)


@dataclass(frozen=True)
class AgreementMetric(Metric):
    """A metric that compares two or more maps of the same image.

    Attributes
    ----------
    measure
        Computes the metric from validated maps, each float64 [H, W].
    """

    measure: Callable[[Sequence[Map]], float]

    def __call__(self, maps: Sequence[Saliency]) -> float:
        """Compute the metric.

        Parameters
        ----------
        maps
            Two or more maps, each [H, W], any real dtype.

        Returns
        -------
        float
            The value, within `limits`.

        Raises
        ------
        MetricError
            There are fewer than two maps, they differ in shape, or one is not finite.
        """
        if len(maps) < 2:
            raise MetricError(f"{self.name} requires 2 or more maps, not {len(maps)}")
        first = checked_map(maps[0])
        for other in maps[1:]:
            if np.shape(other) != first.shape:
                raise MetricError(f"the maps differ in shape: {first.shape} and {np.shape(other)}")
        return self.measure([first, *(checked_map(other) for other in maps[1:])])


def spearman(first: Saliency, second: Saliency) -> float:
    """Compute Spearman's rank correlation of two maps.

    Ties share their mean rank. A constant map has no ranking: its correlation is 1 with another
    constant map and 0 with any other.

    Parameters
    ----------
    first, second
        Maps [H, W] of the same shape, any real dtype.

    Returns
    -------
    float
        From -1 to 1.

    Raises
    ------
    MetricError
        The maps differ in shape, or one is not finite.
    """
    one = checked_map(first)
    two = checked_map(second, one.shape)
    if all((values == values.flat[0]).all() for values in (one, two)):
        return 1.0
    return rank_correlation(one.ravel(), two.ravel())


def seed_stability(maps: Sequence[Saliency]) -> float:
    """Compute the mean Spearman correlation over all pairs of maps made with different seeds.

    Parameters
    ----------
    maps
        Two or more maps [H, W] of one image, one per seed, any real dtype.

    Returns
    -------
    float
        From -1 to 1.

    Warns
    -----
    UserWarning
        All maps are identical, as those of a deterministic method are: 1 by construction.

    Raises
    ------
    MetricError
        There are fewer than two maps, they differ in shape, or one is not finite.
    """
    found = SEED_STABILITY(maps)
    if all(np.array_equal(maps[0], other) for other in maps[1:]):
        warnings.warn(_DETERMINISTIC, UserWarning, stacklevel=2)
    return found


def randomisation(saliency: Saliency, shuffled: Saliency) -> float:
    """Compute the absolute Spearman correlation of a map with the shuffled model's map.

    A map that depends on the learned weights scores low. After Adebayo et al., "Sanity Checks for
    Saliency Maps", arXiv 1810.03292.

    Parameters
    ----------
    saliency
        Map [H, W] of the model, any real dtype.
    shuffled
        Map [H, W] of the same image, made in the same way for the model that
        `ibisa_onnx.metrics.shuffled` returns.

    Returns
    -------
    float
        From 0 to 1; lower is better.

    Raises
    ------
    MetricError
        The maps differ in shape, or one is not finite.
    """
    return RANDOMISATION([saliency, shuffled])


def _mean_of_pairs(maps: Sequence[Map]) -> float:
    return float(np.mean([spearman(one, two) for one, two in combinations(maps, 2)]))


def _largest_with_the_first(maps: Sequence[Map]) -> float:
    return max(abs(spearman(maps[0], other)) for other in maps[1:])


SEED_STABILITY = AgreementMetric(
    "seed stability",
    True,
    (-1.0, 1.0),
    "mean Spearman correlation between maps made with different seeds",
    _mean_of_pairs,
)
RANDOMISATION = AgreementMetric(
    "randomisation",
    False,
    (0.0, 1.0),
    "absolute Spearman correlation with the map of the model with shuffled weights",
    _largest_with_the_first,
)
"""After Adebayo et al., arXiv 1810.03292, who reinitialise weights layer by layer, cumulatively or
independently; here all layers are shuffled at once. The absolute value is used because an inverted
map depends on the weights just as little. Given several shuffled models, the worst one counts."""

"""Agreement of maps: those of several seeds should agree, that of another model should not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from ibisa_onnx.errors import MetricError
from ibisa_onnx.metrics.correlation import rank_correlation
from ibisa_onnx.metrics.maps import Map, Saliency, checked_map
from ibisa_onnx.metrics.metric import Metric


@dataclass(frozen=True)
class AgreementMetric(Metric):
    """A metric of maps beside each other.

    Attributes
    ----------
    measure
        Computes it from checked maps float64 [H, W].
    """

    measure: Callable[[Sequence[Map]], float]

    def __call__(self, maps: Sequence[Saliency]) -> float:
        """Return the metric of two maps or more.

        Parameters
        ----------
        maps
            Each [H, W], any real type.

        Raises
        ------
        MetricError
            There are fewer than two, they differ in shape, or are not finite.
        """
        if len(maps) < 2:
            raise MetricError(f"{self.name} compares maps; give 2 or more, not {len(maps)}")
        first = checked_map(maps[0])
        for other in maps[1:]:
            if np.shape(other) != first.shape:
                raise MetricError(f"the maps are {first.shape} and {np.shape(other)}")
        return self.measure([first, *(checked_map(other) for other in maps[1:])])


def spearman(first: Saliency, second: Saliency) -> float:
    """Return Spearman's rank correlation of two maps [H, W], from -1 to 1; ties share a rank.

    A constant map has no ranks: with another constant one it agrees (1), with any other it has
    nothing in common (0).
    """
    one = checked_map(first)
    two = checked_map(second, one.shape)
    if all((values == values.flat[0]).all() for values in (one, two)):
        return 1.0
    return rank_correlation(one.ravel(), two.ravel())


def seed_stability(maps: Sequence[Saliency]) -> float:
    """Return the mean Spearman correlation over all pairs of maps, each of another seed."""
    return SEED_STABILITY(maps)


def randomisation(saliency: Saliency, shuffled: Saliency) -> float:
    """Return the size of the Spearman correlation of a map with that of the shuffled model.

    `shuffled` is the map, made in the same way, of the model that `shuffled()` returns.
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
    "mean Spearman correlation of several seeds' maps",
    _mean_of_pairs,
)
RANDOMISATION = AgreementMetric(
    "randomisation",
    False,
    (0.0, 1.0),
    "size of the Spearman correlation with the map of the model with shuffled weights",
    _largest_with_the_first,
)
"""After Adebayo et al., arXiv 1810.03292, who draw weights anew, layer after layer or one at a
time; here all are shuffled at once. The size counts, not the sign: a map turned upside down
depends on the weights no more. Of several shuffled models the worst counts."""

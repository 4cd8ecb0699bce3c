"""Sensitivity-n: does what a map says of n tiles together tell what the model loses with them?

Ancona et al., arXiv 1711.06104: an attribution has the property where its sum over any n features
equals what the score loses when they are set to zero. How near it comes is the Pearson correlation
of the two over random sets, for n from 1 to some 80% of the features. Tiles in place of pixels, and
n evenly spaced in the logarithm, are those of the IBA paper's code (arXiv 2001.00396), which
correlates over all images at once; here each image has its own correlation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ibisa_onnx.errors import OptionError
from ibisa_onnx.metrics.correlation import centred, pearson
from ibisa_onnx.metrics.maps import Saliency, checked_map
from ibisa_onnx.metrics.subject import FloatArray, Subject
from ibisa_onnx.metrics.tiles import cut

_LARGEST_SHARE = 0.8


@dataclass(frozen=True, eq=False)
class Sensitivity:
    """The correlation for each n.

    Attributes
    ----------
    sizes
        int64 [k], how many tiles are taken away.
    correlations
        float64 [k], from -1 to 1; 0 where the map does not tell the sets apart, NaN where the
        model does not, so that no map can be right or wrong.
    """

    sizes: npt.NDArray[np.int64]
    correlations: npt.NDArray[np.float64]

    @property
    def mean(self) -> float:
        """The mean over all n at which the model tells the sets apart; 0 where there is none."""
        known = self.correlations[~np.isnan(self.correlations)]
        return float(known.mean()) if known.size else 0.0


def sensitivity_n(
    subject: Subject,
    saliency: Saliency,
    rng: np.random.Generator,
    *,
    sizes: Sequence[int] | None = None,
    subsets: int = 20,
    tile: int | None = None,
) -> Sensitivity:
    """Correlate sums of the map with losses of the score.

    Parameters
    ----------
    subject
        What the map is of; tiles become its blank.
    saliency
        [H, W], any real type.
    rng
        Draws the sets.
    sizes
        Numbers of tiles in a set; five unless given, from 1 to 80% of the tiles, evenly spaced in
        the logarithm.
    subsets
        Random sets for each size, each a forward pass. Papers take 100.
    tile
        Pixels a side; a sixteenth of the shorter side unless given (14 at 224); 1 for pixels.
    """
    tiles = cut(subject.size, tile)
    sums = tiles.sums(checked_map(saliency, subject.size))
    if subsets < 2:
        raise OptionError(f"there are {subsets} sets of a size; give 2 or more")
    numbers = _sizes(tiles.count, sizes)
    drawn = [_draw(rng, tiles.count, int(n), subsets) for n in numbers]

    def pictures() -> Iterator[FloatArray]:
        yield subject.image
        for gone in np.concatenate(drawn):
            yield subject.masked(~gone[tiles.labels])

    whole, *rest = subject.scores(pictures())
    losses = whole - np.reshape(rest, (len(numbers), subsets))
    found = [_correlation(gone @ sums, lost) for gone, lost in zip(drawn, losses, strict=True)]
    return Sensitivity(numbers, np.array(found))


def _sizes(count: int, sizes: Sequence[int] | None) -> npt.NDArray[np.int64]:
    if sizes is None:
        largest = max(1.0, _LARGEST_SHARE * count)
        return np.unique(np.round(np.geomspace(1, largest, 5)).astype(np.int64))
    numbers = np.array(sizes, np.int64)
    if numbers.ndim != 1 or not numbers.size or numbers.min() < 1 or numbers.max() > count:
        raise OptionError(f"sizes are {list(sizes)}; give numbers from 1 to {count} tiles")
    return numbers


def _draw(rng: np.random.Generator, count: int, size: int, subsets: int) -> npt.NDArray[np.bool_]:
    """Random sets, bool [subsets, count], with `size` tiles in each."""
    places = np.argsort(rng.random((subsets, count)), axis=1)
    return places < size


def _correlation(said: npt.NDArray[np.float64], lost: npt.NDArray[np.float64]) -> float:
    return pearson(said, lost) if centred(lost).any() else float("nan")

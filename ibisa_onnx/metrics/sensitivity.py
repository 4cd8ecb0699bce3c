"""Sensitivity-n: does the map's sum over n tiles predict the score drop when they are hidden?

Ancona et al., arXiv 1711.06104: an attribution satisfies sensitivity-n if its sum over any n
features equals the drop of the score when they are set to zero. The metric is the Pearson
correlation of the two over random sets, for n from 1 to about 80% of the features. Tiles instead of
pixels, and log-spaced n, follow the IBA paper's code (arXiv 2001.00396), which correlates over all
images at once; here each image has its own correlation.
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
    """Correlations of sensitivity-n, one for each n.

    Attributes
    ----------
    sizes
        int64 [k], number of tiles hidden.
    correlations
        float64 [k], from -1 to 1; 0 if the map's sums are constant, NaN if the score drops are, in
        which case no map can be right or wrong.
    """

    sizes: npt.NDArray[np.int64]
    correlations: npt.NDArray[np.float64]

    @property
    def mean(self) -> float:
        """Mean over all n with a defined correlation; 0 if there is none."""
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
    """Correlate the map's sums over random sets of tiles with the score drops when they are hidden.

    Parameters
    ----------
    subject
        Image and score function; hidden tiles become its blank.
    saliency
        Map [H, W], any real dtype.
    rng
        Draws the sets.
    sizes
        Numbers of tiles per set. Default: five log-spaced values from 1 to 80% of the tiles.
    subsets
        Random sets per size; each costs a forward pass. Papers use 100.
    tile
        Side of a tile in pixels; 1 for single pixels. Default: 1/16 of the shorter side (14 at
        224).

    Returns
    -------
    Sensitivity
        The correlations by size.

    Raises
    ------
    MetricError
        The map differs in shape from the image, or is not finite.
    OptionError
        `sizes`, `subsets` or `tile` is out of range.
    OutputError
        The model does not return one finite score per image.
    """
    tiles = cut(subject.size, tile)
    sums = tiles.sums(checked_map(saliency, subject.size))
    if subsets < 2:
        raise OptionError(f"subsets is {subsets}; pass 2 or more")
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
        raise OptionError(f"sizes is {list(sizes)}; pass numbers from 1 to {count} tiles")
    return numbers


def _draw(rng: np.random.Generator, count: int, size: int, subsets: int) -> npt.NDArray[np.bool_]:
    """Draw random sets, bool [subsets, count], with `size` tiles in each."""
    places = np.argsort(rng.random((subsets, count)), axis=1)
    return places < size


def _correlation(said: npt.NDArray[np.float64], lost: npt.NDArray[np.float64]) -> float:
    return pearson(said, lost) if centred(lost).any() else float("nan")
